-- retry: a claimed job goes to the scheduled ones, to run again later.
--
-- KEYS[1] processing  LIST  what this worker has claimed
-- KEYS[2] workers     ZSET  worker -> end of its lease
-- KEYS[3] started     SET   ids of the worker's claimed jobs that have started
-- KEYS[4] settled     HASH  lane -> sequence number and outcome of the worker's last batch in it
-- KEYS[5] scheduled   ZSET  id -> due time in ms
-- KEYS[6] messages    HASH  id -> message of the scheduled jobs
-- KEYS[7] result      STR   the job's record, with a TTL
-- KEYS[8] main        LIST
-- KEYS[9] jobs        SET   ids of jobs that are not settled
-- ARGV[1] worker, ARGV[2] lane, ARGV[3] sequence number
-- ARGV[4] message as claimed, ARGV[5] id, ARGV[6] message as it goes on, ARGV[7] ms until it is due
--         no whole number: parked, since its task is paused
-- ARGV[8] record that says why ('' for none), ARGV[9] seconds to keep it ('0' not at all)
-- ARGV[10] '1' when the job was settled before it started (acks_late=False): it is in no list, and goes all the same
-- returns false, when the worker is not registered | '1' scheduled | '0' the claim was lost
local processing, workers, started, settled, scheduled = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local worker, lane, number, id, record = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[5], ARGV[8]
local last = redis.call('HGET', settled, lane)
if last then
  local seen, outcome = string.match(last, '^(%d+) (%d*)$')
  if seen and tonumber(seen) >= number then return outcome end
end
if not redis.call('ZSCORE', workers, worker) then return false end
local time = redis.call('TIME')
local due = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[7])
local is_parked = due % 1 ~= 0
-- A parked job is known by a due time that is no whole number; its fraction keeps the order within a millisecond.
if is_parked then due = math.floor(due) + (time[2] % 1000 + 0.5) / 1000 end
-- Refused at maxmemory, and changes nothing otherwise: then the reason is not kept, only the job.
local probe = redis.pcall('SETRANGE', KEYS[7], 0, '')
if type(probe) == 'table' and string.find(probe.err, 'OOM', 1, true) then record = '' end
local soonest = redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')[2]
local owned = redis.call('LREM', processing, -1, ARGV[4])
if ARGV[10] == '1' then owned = 1 end
if owned == 1 then
  local kept = redis.pcall('HSET', KEYS[6], id, ARGV[6])
  if type(kept) == 'table' then -- somebody else's key: the claim stands
    if ARGV[10] ~= '1' then redis.call('RPUSH', processing, ARGV[4]) end
    return kept
  end
  redis.call('ZADD', scheduled, string.format(is_parked and '%.4f' or '%.0f', due), id)
  redis.call('SADD', KEYS[9], id)
  redis.call('SREM', started, id)
  if record ~= '' then
    if ARGV[9] ~= '0' then redis.call('SET', KEYS[7], record, 'EX', ARGV[9]) end
    redis.pcall('PUBLISH', KEYS[7], record)
  end
  if due < (tonumber(soonest) or math.huge) and redis.call('EXISTS', KEYS[8]) == 0 then
    redis.call('LPUSH', KEYS[8], '')
  end
end
redis.call('HSET', settled, lane, string.format('%.0f', number) .. ' ' .. owned)
redis.call('EXPIRE', settled, 86400)
return tostring(owned)
