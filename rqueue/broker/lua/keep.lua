-- keep: jobs' rows of history take the places of older ones of the same jobs.
--
-- KEYS[1..] row  HASH  for each: when a job of this id was enqueued, in ms -> its row, behind what tells which is later
-- ARGV[1] seconds to keep them ('' for ever), ARGV[2] by how many ms two hosts' times may differ
-- ARGV[3..] for each: when this one was enqueued, runs, when the last run started, row
-- returns one character for each: '1' written | '0' what is there is the later's
--
-- A worker that was frozen while others ran its job on must not overwrite what they wrote; see rqueue.results.row.
local ttl, skew = ARGV[1], tonumber(ARGV[2])
local out = {}
for i = 1, #KEYS do
  local key, first = KEYS[i], 4 * i - 1
  local enqueued, runs, started, row = ARGV[first], ARGV[first + 1], ARGV[first + 2], ARGV[first + 3]
  local stored = redis.call('HGET', key, enqueued)
  local their_runs, their_start = string.match(stored or '', '^(%-?%d+) (%-?%d+) ')
  local late = their_start and tonumber(their_start) - tonumber(started) or 0
  local more = their_runs and tonumber(runs) - tonumber(their_runs) or 0
  if late == 0 and more < 0 or late > 0 and (more <= 0 or late >= skew) then
    out[i] = '0'
  else
    redis.call('HSET', key, enqueued, runs .. ' ' .. started .. ' ' .. row)
    if ttl ~= '' then redis.call('EXPIRE', key, ttl) end
    out[i] = '1'
  end
end
return table.concat(out)
