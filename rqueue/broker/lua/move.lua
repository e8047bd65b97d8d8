-- move: a claimed job that goes on in another queue leaves this one. It was enqueued there before.
--
-- KEYS[1] processing  LIST  what this worker has claimed
-- KEYS[2] workers     ZSET  worker -> end of its lease
-- KEYS[3] started     SET   ids of the worker's claimed jobs that have started
-- KEYS[4] settled     HASH  lane -> sequence number and outcome of the worker's last batch in it
-- KEYS[5] jobs        SET   ids of jobs that are not settled
-- KEYS[6] result      STR   the job's record, with a TTL
-- KEYS[7] stops       ZSET  what must not run
-- ARGV[1] worker, ARGV[2] lane, ARGV[3] sequence number
-- ARGV[4] message, ARGV[5] id
-- ARGV[6] record that says where it went, ARGV[7] seconds to keep it, ARGV[8] the same in short, for a full Redis
-- ARGV[9] '1' when the job was cancelled, and has been in the other queue too: its stop goes
-- returns false, when the worker is not registered | '1' moved | '0' the claim was lost
--         | '4' it is cancelled, nothing has changed: cancel it in the other queue, and call again
--
-- The other queue is in another slot, so that this is the second of two steps. Who dies between them leaves a message
-- that says where it goes: the next worker repeats the first step, which changes nothing, and then does this one.
local processing, workers, started, settled, jobs = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local worker, lane, number, id, record = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[5], ARGV[6]
local last = redis.call('HGET', settled, lane)
if last then
  local seen, outcome = string.match(last, '^(%d+) (%d*)$')
  if seen and tonumber(seen) >= number then return outcome end
end
if not redis.call('ZSCORE', workers, worker) then return false end
if ARGV[9] == '' and redis.call('ZSCORE', KEYS[7], 'job:' .. id) then return '4' end
-- Refused at maxmemory, and changes nothing otherwise; what follows an LREM is never refused.
local probe = redis.pcall('SETRANGE', KEYS[6], 0, '')
local full = type(probe) == 'table' and string.find(probe.err, 'OOM', 1, true)
local owned = redis.call('LREM', processing, -1, ARGV[4])
if owned == 1 then
  redis.call('SREM', started, id)
  redis.call('SREM', jobs, id)
  redis.call('ZREM', KEYS[7], 'job:' .. id)
  redis.call('SET', KEYS[6], full and ARGV[8] or record, 'EX', ARGV[7])
end
redis.call('HSET', settled, lane, string.format('%.0f', number) .. ' ' .. owned)
redis.call('EXPIRE', settled, 86400)
if owned == 1 then redis.pcall('PUBLISH', KEYS[6], record) end -- an ACL may forbid it: then waiters look for themselves
return tostring(owned)
