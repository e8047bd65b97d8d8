-- cancel: a job that waits is taken away, and REVOKED; one that a worker has is marked, and never runs again.
--
-- KEYS[1] jobs       SET   ids of jobs that are not settled
-- KEYS[2] scheduled  ZSET  id -> due time in ms
-- KEYS[3] messages   HASH  id -> message of the scheduled jobs
-- KEYS[4] stops      ZSET  what must not run
-- KEYS[5] workers    ZSET  worker -> end of its lease
-- KEYS[6] result     STR   the job's record, with a TTL
-- KEYS[7] counts     HASH  jobs by the state in which they ended
-- KEYS[8] main       LIST
-- KEYS[9..18] p1 … p10  LIST
-- KEYS[19] recorded   STR   there is a result store: how many bytes may wait for it
-- KEYS[20] spool LIST, KEYS[21] bytes STR, KEYS[22] unrecorded STR: what waits for it, as in spool
-- KEYS[23..] for each worker that is named: processing LIST, started SET
-- ARGV[1] id, ARGV[2] record, ARGV[3] seconds to keep it ('' for ever, '0' not at all)
-- ARGV[4] the message, where it was read from a waiting list ('': look for it), ARGV[5] that list's level
-- ARGV[6] messages to look at, ARGV[7] bytes to look at, both about: Redis is never held for long
-- ARGV[8..] the workers
-- returns {0} no job of that id is alive | {1} removed | {2, worker} marked: this worker has it
--         | {3} there are other workers by now: name them, and call again
--
-- May be repeated: then it is not alive, or marked already. What is too far back in a long list is marked and ends at
-- once as well; its message is dropped by whoever claims it. The main list's end is looked at first, and a marked
-- message never goes back there: a block, which does not know of stops, cannot take it.
local jobs, scheduled, stops, result, id, record = KEYS[1], KEYS[2], KEYS[4], KEYS[6], ARGV[1], ARGV[2]
local ttl, left, bytes, index, stop = ARGV[3], tonumber(ARGV[6]), tonumber(ARGV[7]), {}, 'job:' .. ARGV[1]
for i = 8, #ARGV do index[ARGV[i]] = 23 + (i - 8) * 2 end
for _, worker in ipairs(redis.call('ZRANGE', KEYS[5], 0, -1)) do
  if not index[worker] then return { 3 } end
end
if redis.call('SISMEMBER', jobs, id) == 0 then return { 0 } end
-- Refused at maxmemory, and changes nothing otherwise: then only that it ended is kept.
local probe, announced = redis.pcall('SETRANGE', result, 0, ''), record
if type(probe) == 'table' and string.find(probe.err, 'OOM', 1, true) then
  record = '{"state":"REVOKED","dropped":true}'
end
redis.call('ZREM', stops, '') -- writes nothing, and lets a full Redis accept what follows
local function mark(worker)
  redis.call('ZADD', stops, 0, stop)
  return { 2, worker }
end
local function find(list)
  local length, seen, page = redis.pcall('LLEN', list), 0, 4
  while type(length) == 'number' and seen < length and left > 0 and bytes > 0 do
    local part = redis.call('LRANGE', list, -seen - page, -seen - 1)
    for i = #part, 1, -1 do
      if string.match(part[i], '^1 %S+ %d+ %d+ %d+ (%S+) ') == id then return part[i] end
      left, bytes = left - 1, bytes - #part[i]
    end
    seen, page = seen + #part, math.min(2 * page, 64)
  end
end
for worker, at in pairs(index) do
  if redis.call('SISMEMBER', KEYS[at + 1], id) == 1 then return mark(worker) end
end
local message = redis.call('HGET', KEYS[3], id) or ARGV[4]
local gone = redis.call('ZREM', scheduled, id) == 1 and redis.call('HDEL', KEYS[3], id)
if not gone and ARGV[4] ~= '' then
  gone = redis.pcall('LREM', KEYS[8 + tonumber(ARGV[5])], 1, ARGV[4]) == 1
end
for level = 0, gone and -1 or 10 do
  local list = KEYS[8 + (level == 0 and 0 or 11 - level)]
  message = find(list)
  gone = message and redis.call('LREM', list, -1, message) == 1
  if gone then break end
end
if gone then redis.call('ZREM', stops, stop) else left, bytes = math.huge, math.huge end
for worker, at in pairs(gone and {} or index) do
  if find(KEYS[at]) then return mark(worker) end
end
if not gone then redis.call('ZADD', stops, 0, stop) end
redis.call('SREM', jobs, id)
redis.call('DEL', result)
if ttl ~= '0' then redis.call('SET', result, record, unpack(ttl == '' and {} or { 'EX', ttl })) end
redis.pcall('HINCRBY', KEYS[7], 'REVOKED', 1)
redis.call('EXPIRE', KEYS[7], 86400)
local entry = id .. '\n' .. announced .. '\n' .. (message or '')
local bound = gone and tonumber(redis.call('GET', KEYS[19]) or '')
local size, lost = (tonumber(redis.call('GET', KEYS[21])) or 0) + #entry, tonumber(redis.call('GET', KEYS[22])) or 0
local fits = bound and size <= bound and record == announced
if fits then redis.call('RPUSH', KEYS[20], entry) end
if bound then redis.call('SET', unpack(fits and { KEYS[21], size } or { KEYS[22], lost + 1, 'EX', 604800 })) end
redis.pcall('PUBLISH', result, announced) -- an ACL may forbid it: then waiters look for themselves
return { 1 }
