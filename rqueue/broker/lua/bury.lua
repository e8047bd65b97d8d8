-- bury: a claimed job that failed for good, or cannot be read, goes to the dead letters, with its result.
--
-- KEYS[1] processing  LIST  what the worker has claimed
-- KEYS[2] workers     ZSET  worker -> end of its lease
-- KEYS[3] started     SET   ids of the worker's claimed jobs that have started
-- KEYS[4] jobs        SET   ids of jobs that are not settled
-- KEYS[5] settled     HASH  lane -> sequence number and outcome of the worker's last batch in it
-- KEYS[6] counts      HASH  jobs by the state in which they ended
-- KEYS[7] result      STR   the job's record, with a TTL
-- KEYS[8] dead        ZSET  id -> time of death in ms
-- KEYS[9] letters     HASH  id -> dead letter
-- KEYS[10] recorded   STR   there is a result store: how many bytes may wait for it
-- KEYS[11] spool LIST, KEYS[12] bytes STR, KEYS[13] unrecorded STR: what waits for it, as in spool
-- ARGV[1] worker, ARGV[2] lane, ARGV[3] sequence number
-- ARGV[4] message, ARGV[5] id, ARGV[6] record, ARGV[7] seconds to keep it ('' for ever, '0' not at all)
-- ARGV[8] dead letter ('' for none), ARGV[9] how many letters are kept, ARGV[10] for how many ms
-- ARGV[11] '1' when a reaper buries for the worker: then only once the lease has run out, and how the job ended waits
--          for the result store, if there is one; a worker names KEYS[1..9], and has written it there
-- returns false, when the worker is not registered, or alive though a reaper asks | '1' buried | '0' the claim was lost
local processing, workers, started, settled, dead, letters = KEYS[1], KEYS[2], KEYS[3], KEYS[5], KEYS[8], KEYS[9]
local worker, lane, number, id, record, ttl = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[5], ARGV[6], ARGV[7]
local last = redis.call('HGET', settled, lane)
if last then
  local seen, outcome = string.match(last, '^(%d+) (%d*)$')
  if seen and tonumber(seen) >= number then return outcome end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lease = redis.call('ZSCORE', workers, worker)
if ARGV[11] == '1' then
  if lease and tonumber(lease) > now then return false end
elseif not lease then
  return false
end
-- Refused at maxmemory, and changes nothing otherwise. Then no more is written than the message frees.
local probe, letter, entry = redis.pcall('SETRANGE', KEYS[7], 0, ''), ARGV[8], id .. '\n' .. record .. '\n' .. ARGV[4]
if type(probe) == 'table' and string.find(probe.err, 'OOM', 1, true) and letter ~= '' then
  local reason = string.match(letter, '"reason":"([%a ]+)"') or 'failed'
  record = '{"state":"FAILURE","dropped":true}'
  letter = '{"id":' .. cjson.encode(id) .. ',"reason":"' .. reason .. '"}' .. (string.match(letter, '\n.*$') or '')
end
if letter ~= '' then redis.call('ZCARD', dead) redis.call('HLEN', letters) end -- another kind is refused here
local owned = 0
if redis.call('TYPE', processing).ok == 'list' then owned = redis.call('LREM', processing, -1, ARGV[4]) end
if owned == 1 then
  redis.pcall('SREM', KEYS[4], id) -- what is no set holds no id, and the letter is written
  redis.pcall('SREM', started, id)
  if letter ~= '' then
    redis.call('ZADD', dead, now, id)
    redis.call('HSET', letters, id, letter)
  end
  for _, old in ipairs(redis.call('ZRANGEBYSCORE', dead, '-inf', now - tonumber(ARGV[10]), 'LIMIT', 0, 100)) do
    redis.call('ZREM', dead, old)
    redis.call('HDEL', letters, old)
  end
  for _ = 1, letter ~= '' and redis.call('ZCARD', dead) - tonumber(ARGV[9]) or 0 do
    redis.call('HDEL', letters, redis.call('ZPOPMIN', dead)[1])
  end
  redis.call('DEL', KEYS[7])
  if ttl == '' then
    redis.call('SET', KEYS[7], record)
  elseif ttl ~= '0' then
    redis.call('SET', KEYS[7], record, 'EX', ttl)
  end
  redis.pcall('HINCRBY', KEYS[6], string.match(record, '^{"state":"(%u+)"'), 1)
  redis.call('EXPIRE', KEYS[6], 86400)
  local bound = ARGV[11] == '1' and tonumber(redis.call('GET', KEYS[10]) or '')
  local bytes = bound and (tonumber(redis.call('GET', KEYS[12])) or 0) + #entry
  if bound and bytes <= bound and type(probe) == 'number' then
    redis.call('RPUSH', KEYS[11], entry)
    redis.call('SET', KEYS[12], bytes)
  elseif bound then
    redis.call('SET', KEYS[13], (tonumber(redis.call('GET', KEYS[13])) or 0) + 1, 'EX', 604800)
  end
end
redis.call('HSET', settled, lane, string.format('%.0f', number) .. ' ' .. owned)
redis.call('EXPIRE', settled, 86400)
if owned == 1 then redis.pcall('PUBLISH', KEYS[7], record) end -- an ACL may forbid it: then waiters look for themselves
return tostring(owned)
