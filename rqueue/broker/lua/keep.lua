-- keep: a job's row of history takes the place of an older one of the same job.
--
-- KEYS[1] row  HASH  when a job of this id was enqueued, in ms -> its row, behind what tells which of two is the later's
-- ARGV[1] when this one was enqueued, ARGV[2] runs, ARGV[3] when the last run started, ARGV[4] row
-- ARGV[5] seconds to keep it ('' for ever), ARGV[6] by how many ms two hosts' times may differ
-- returns 1 written | 0 what is there is the later's
--
-- A worker that was frozen while others ran its job on must not overwrite what they wrote; see rqueue.results.row.
local key, enqueued, runs, started, row, ttl = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local stored = redis.call('HGET', key, enqueued)
if stored then
  local their_runs, their_start = string.match(stored, '^(%-?%d+) (%-?%d+) ')
  local late = their_start and tonumber(their_start) - tonumber(started) or 0
  local more = their_runs and tonumber(runs) - tonumber(their_runs) or 0
  if late == 0 and more < 0 or late > 0 and (more <= 0 or late >= tonumber(ARGV[6])) then return 0 end
end
redis.call('HSET', key, enqueued, runs .. ' ' .. started .. ' ' .. row)
if ttl ~= '' then redis.call('EXPIRE', key, ttl) end
return 1
