-- ack: finished jobs leave their worker's list, exactly once, and their results are there.
--
-- KEYS[1] processing  LIST  what this worker has claimed
-- KEYS[2] workers     ZSET  worker -> end of its lease
-- KEYS[3] started     SET   ids of the worker's claimed jobs that have started
-- KEYS[4] jobs        SET   ids of jobs that are not settled
-- KEYS[5] settled     HASH  lane -> sequence number and outcome of the worker's last batch in it
-- KEYS[6] counts      HASH  jobs by the state in which they ended
-- KEYS[7..] result    STR   a key for each job, also the channel on which its end is announced
-- ARGV[1] worker, ARGV[2] lane, ARGV[3] sequence number
-- ARGV[4..] for each job: message, id, record, seconds to keep it ('' for ever, '0' not at all)
-- returns false, when the worker is not registered | one character for each job: '1' settled | '0' the claim was lost
--         | '2' settled, and Redis was too full to keep the result's value
--
-- The list is checked first: a worker back from a long pause must not overwrite the new owner's result. A batch whose
-- reply was lost is sent again under its number and gets the first answer.
local processing, workers, started, jobs, settled, counts = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local worker, lane, number = ARGV[1], ARGV[2], tonumber(ARGV[3])
local last = redis.call('HGET', settled, lane)
if last then
  local seen, outcome = string.match(last, '^(%d+) (%d*)$')
  if seen and tonumber(seen) >= number then return outcome end
end
if not redis.call('ZSCORE', workers, worker) then return false end
-- Refused at maxmemory, and changes nothing otherwise; what follows an LREM is never refused.
local probe = redis.pcall('SETRANGE', KEYS[7], 0, '')
local full = type(probe) == 'table' and string.find(probe.err, 'OOM', 1, true)
local out, states, announced, ended = {}, {}, {}, {}
for i = 4, #ARGV, 4 do
  local message, id, record, ttl = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local owned = redis.call('LREM', processing, -1, message)
  if owned == 1 then
    local result, state = KEYS[7 + (i - 4) / 4], string.match(record, '^{"state":"(%u+)"')
    if state ~= 'STARTED' then -- with acks_late=False the job runs from now on, and its id stays taken until record
      ended[#ended + 1] = id
      states[state] = (states[state] or 0) + 1
    end
    announced[#announced + 1] = { result, record }
    if full and #record > 64 then
      record, owned = '{"state":"' .. state .. '","dropped":true}', 2
    end
    if ttl == '' then
      redis.call('SET', result, record)
    elseif ttl ~= '0' then
      redis.call('SET', result, record, 'EX', ttl)
    else
      redis.call('DEL', result)
    end
  end
  out[#out + 1] = owned
end
for i = 1, #ended, 5000 do -- unpack takes 7,999 at most
  redis.pcall('SREM', jobs, unpack(ended, i, math.min(i + 4999, #ended)))
  redis.pcall('SREM', started, unpack(ended, i, math.min(i + 4999, #ended)))
end
for state, n in pairs(states) do redis.pcall('HINCRBY', counts, state, n) end
redis.call('EXPIRE', counts, 86400)
out = table.concat(out)
redis.call('HSET', settled, lane, string.format('%.0f', number) .. ' ' .. out)
redis.call('EXPIRE', settled, 86400)
for _, each in ipairs(announced) do redis.pcall('PUBLISH', each[1], each[2]) end -- an ACL may forbid it: waiters look
return out
