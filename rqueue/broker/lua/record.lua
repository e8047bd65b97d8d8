-- record: the result of a job that was settled before it started (acks_late=False) is kept and announced.
--
-- KEYS[1] result  STR   the job's record, with a TTL
-- KEYS[2] counts  HASH  jobs by the state in which they ended
-- ARGV[1] record
-- ARGV[2] seconds to keep it ('' for ever, '0' not at all)
-- returns 1
--
-- May be repeated: only this worker ever writes the record of a job that it settled early.
local result, counts, record, ttl = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local state = string.match(record, '^{"state":"(%u+)"')
local before = redis.pcall('GET', result)
local is_new = type(before) ~= 'string' or string.match(before, '^{"state":"(%u+)"') ~= state
redis.call('PUBLISH', result, record)
-- Refused at maxmemory, and changes nothing otherwise.
local probe = redis.pcall('SETRANGE', result, 0, '')
if type(probe) == 'table' and string.find(probe.err, 'OOM', 1, true) and #record > 64 then
  record = '{"state":"' .. state .. '","dropped":true}'
end
redis.call('DEL', result)
if ttl == '' then
  redis.call('SET', result, record)
elseif ttl ~= '0' then
  redis.call('SET', result, record, 'EX', ttl)
end
if is_new then redis.call('HINCRBY', counts, state, 1) end
redis.call('EXPIRE', counts, 86400)
return 1
