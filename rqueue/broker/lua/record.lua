-- record: the end of a job that was settled before it started (acks_late=False) is kept and announced.
--
-- KEYS[1] result   STR   the job's record, with a TTL
-- KEYS[2] counts   HASH  jobs by the state in which they ended
-- KEYS[3] dead     ZSET  id -> time of death in ms
-- KEYS[4] letters  HASH  id -> dead letter
-- KEYS[5] jobs     SET   ids of jobs that are not settled, or run though they are
-- KEYS[6] started  SET   ids of the worker's jobs that have started
-- KEYS[7] workers  ZSET  worker -> end of its lease
-- KEYS[8] recorded STR   there is a result store: how many bytes may wait for it
-- KEYS[9] spool LIST, KEYS[10] bytes STR, KEYS[11] unrecorded STR: what waits for it, as in spool
-- ARGV[1] record
-- ARGV[2] seconds to keep it ('' for ever, '0' not at all)
-- ARGV[3] id, ARGV[4] dead letter ('' for none), ARGV[5] how many letters are kept, ARGV[6] for how many ms
-- ARGV[7] the worker that ran it; '' when somebody else speaks for it
-- ARGV[8] '1' when a reaper does: then only of a job whose last record says that it runs, and how it ended waits for
--         the result store, if there is one; a worker names KEYS[1..7], and has written it there
-- returns 1 | 0 the worker is not registered any more, or has spoken itself before it was reaped
--
-- May be repeated. The job's id is free from here on.
local result, counts, record, ttl, id = KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3]
if ARGV[7] ~= '' and not redis.call('ZSCORE', KEYS[7], ARGV[7]) then return 0 end
local state = string.match(record, '^{"state":"(%u+)"')
local before, announced = redis.pcall('GET', result), record
if ARGV[8] == '1' and not (type(before) == 'string' and string.find(before, '{"state":"STARTED"', 1, true) == 1) then
  return 0
end
local is_new = type(before) ~= 'string' or string.match(before, '^{"state":"(%u+)"') ~= state
-- Refused at maxmemory, and changes nothing otherwise.
local probe = redis.pcall('SETRANGE', result, 0, '')
if type(probe) == 'table' and string.find(probe.err, 'OOM', 1, true) and #record > 64 then
  record = '{"state":"' .. state .. '","dropped":true}'
end
redis.call('DEL', result)
redis.call('SREM', KEYS[5], id)
redis.call('SREM', KEYS[6], id)
if ttl == '' then
  redis.call('SET', result, record)
elseif ttl ~= '0' then
  redis.call('SET', result, record, 'EX', ttl)
end
if ARGV[4] ~= '' then
  local time, dead, letters = redis.call('TIME'), KEYS[3], KEYS[4]
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  redis.call('ZADD', dead, now, id)
  redis.call('HSET', letters, id, ARGV[4])
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', dead, '-inf', now - tonumber(ARGV[6]), 'LIMIT', 0, 100)) do
    redis.call('ZREM', dead, old)
    redis.call('HDEL', letters, old)
  end
  for _ = 1, redis.call('ZCARD', dead) - tonumber(ARGV[5]) do
    redis.call('HDEL', letters, redis.call('ZPOPMIN', dead)[1])
  end
end
local bound, entry = ARGV[8] == '1' and tonumber(redis.call('GET', KEYS[8]) or ''), id .. '\n' .. announced .. '\n'
local bytes = bound and (tonumber(redis.call('GET', KEYS[10])) or 0) + #entry
if bound and bytes <= bound and type(probe) == 'number' then
  redis.call('RPUSH', KEYS[9], entry)
  redis.call('SET', KEYS[10], bytes)
elseif bound then
  redis.call('SET', KEYS[11], (tonumber(redis.call('GET', KEYS[11])) or 0) + 1, 'EX', 604800)
end
if is_new then redis.pcall('HINCRBY', counts, state, 1) end
redis.call('EXPIRE', counts, 86400)
redis.pcall('PUBLISH', result, announced) -- an ACL may forbid it: then waiters look for themselves
return 1
