-- revoke: a claimed job that was cancelled is settled: before it started, or once it was interrupted.
--
-- KEYS[1] processing  LIST  what this worker has claimed
-- KEYS[2] workers     ZSET  worker -> end of its lease
-- KEYS[3] started     SET   ids of the worker's claimed jobs that have started
-- KEYS[4] jobs        SET   ids of jobs that are not settled
-- KEYS[5] settled     HASH  lane -> sequence number and outcome of the worker's last batch in it
-- KEYS[6] counts      HASH  jobs by the state in which they ended
-- KEYS[7] result      STR   the job's record, with a TTL
-- KEYS[8] stops       ZSET  what must not run
-- ARGV[1] worker, ARGV[2] lane, ARGV[3] sequence number
-- ARGV[4] message, ARGV[5] id, ARGV[6] record, ARGV[7] seconds to keep it ('' for ever, '0' not at all)
-- ARGV[8] '1' when the job was settled before it started (acks_late=False): it is in no list
-- returns false, when the worker is not registered | '1' revoked | '0' the claim was lost
--
-- A message whose job is not alive any more is what a cancel left in a long list: it only goes.
local processing, workers, started, jobs, settled, result = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[7]
local worker, lane, number, id, record, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[5], ARGV[6], ARGV[7]
local last = redis.call('HGET', settled, lane)
if last then
  local seen, outcome = string.match(last, '^(%d+) (%d*)$')
  if seen and tonumber(seen) >= number then return outcome end
end
if not redis.call('ZSCORE', workers, worker) then return false end
-- Refused at maxmemory, and changes nothing otherwise: then no more is written than the message frees.
local probe, announced = redis.pcall('SETRANGE', result, 0, ''), record
if type(probe) == 'table' and string.find(probe.err, 'OOM', 1, true) then
  record = '{"state":"REVOKED","dropped":true}'
end
local owned, is_end = redis.call('LREM', processing, -1, ARGV[4]), false
local was_started = redis.call('SREM', started, id)
if ARGV[8] == '1' then owned = was_started end
if owned == 1 then
  redis.call('ZREM', KEYS[8], 'job:' .. id)
  if redis.call('SREM', jobs, id) == 1 then
    is_end = true
    redis.call('DEL', result)
    if ttl ~= '0' then redis.call('SET', result, record, unpack(ttl == '' and {} or { 'EX', ttl })) end
    redis.pcall('HINCRBY', KEYS[6], 'REVOKED', 1)
    redis.call('EXPIRE', KEYS[6], 86400)
  end
end
redis.call('HSET', settled, lane, string.format('%.0f', number) .. ' ' .. owned)
redis.call('EXPIRE', settled, 86400)
if is_end then redis.pcall('PUBLISH', result, announced) end -- an ACL may forbid it
return tostring(owned)
