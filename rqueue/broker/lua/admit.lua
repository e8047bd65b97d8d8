-- admit: a producer's batch becomes jobs as by enqueue, as far as nothing that counts as the same job is there already.
--
-- KEYS[1] jobs       SET   ids of jobs that are not settled
-- KEYS[2] scheduled  ZSET  id -> due time in ms
-- KEYS[3] messages   HASH  id -> message of the scheduled jobs
-- KEYS[4] sent       HASH  lane -> sequence number and outcome of the producer's last batch in it
-- KEYS[5] unique     HASH  lock -> id of the job that holds it, and until when at most in ms
-- KEYS[6] main       LIST
-- KEYS[7..16] p1 … p10  LIST
-- KEYS[17] stops     ZSET  what must not run
-- KEYS[18..] for each job: result STR, if the caller chose its id; throttle STR (id, until when in ms), if it has one
-- ARGV[1] lane, ARGV[2] sequence number, ARGV[3] seconds to remember the outcome
-- ARGV[4..] for each job: id, '1' if the caller chose the id, level, due, message, lock
--           due: '' now | '+ms' from now | 'ms' since the epoch
--           lock: '' none | 'unique', 'debounce' or 'throttle', for how many ms at most (0: no limit), the lock's name
-- returns for each job, with a space between: '1' enqueued | '0' its id is alive | '=' and the id that was there first
--         | '2' not enqueued: a stop is left of an earlier job of that id; forget it first
--
-- A lock counts only while its job's id is in jobs: whatever ends a job frees its lock in that same step, and a lock
-- that was left behind blocks nothing. All is decided before the first write, which is refused at maxmemory. A batch
-- that was sent again gets the first answer, as with enqueue.
local jobs, scheduled, messages, sent, unique, main = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local lane, number, kinds = ARGV[1], tonumber(ARGV[2]), { 'set', 'zset', 'hash', 'hash', 'hash', [17] = 'zset' }
local seen, outcome = string.match(redis.call('HGET', sent, lane) or '', '^(%d+) (.*)$')
if seen and tonumber(seen) >= number then return redis.call('EXPIRE', sent, ARGV[3]) and outcome end
for i = 1, 17 do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= (kinds[i] or 'list') then return redis.error_reply('WRONGTYPE ' .. KEYS[i]) end
end
local time, soonest = redis.call('TIME'), tonumber(redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')[2]) or math.huge
local now, plan, taken, held, out, at, token = time[1] * 1000 + math.floor(time[2] / 1000), {}, {}, {}, {}, 17, false
local function alive(id) return taken[id] or redis.call('SISMEMBER', jobs, id) == 1 end
local stops = redis.call('EXISTS', KEYS[17]) == 1 and KEYS[17]
local function stopped(id) return stops and redis.call('ZSCORE', stops, 'job:' .. id) end
local function holder(mode, name, key) -- the job that was there first, or false
  local entry = key and redis.call('GET', key) or not key and redis.call('HGET', unique, name)
  local id, ends = string.match(entry or '', '^(%S+) ?(%d*)$')
  if not id or (ends ~= '' and tonumber(ends) <= now) then return false end
  local later = not key and redis.call('ZSCORE', scheduled, id)
  if later and stopped(id) then return false end -- it asked for a retry as it was cancelled, and never runs again
  if mode == 'debounce' then return later and id end
  return (key or alive(id)) and id
end
for i = 4, #ARGV, 6 do
  local job = { id = ARGV[i], level = tonumber(ARGV[i + 2]), due = tonumber(ARGV[i + 3]), message = ARGV[i + 4] }
  local mode, ms, name = string.match(ARGV[i + 5], '^(%l+) (%d+) (%S+)$')
  if string.sub(ARGV[i + 3], 1, 1) == '+' then job.due = now + job.due end
  if ARGV[i + 1] == '1' then at, job.result = at + 1, KEYS[at + 1] end
  if mode == 'throttle' then at, job.throttle = at + 1, KEYS[at + 1] end
  local first = name and (held[name] or holder(mode, name, job.throttle))
  local is_stopped = not first and job.result and not alive(job.id) and stopped(job.id)
  if first and mode == 'debounce' then -- the scheduled job goes on under its id, as this call wants it
    local head, body = string.match(job.message, '^(1 %S+ %d+ %d+ %d+ )%S+( .*)$')
    plan[#plan + 1] = { id = first, due = job.due, message = head .. first .. body }
  elseif not first and not is_stopped and not (job.result and alive(job.id)) then
    plan[#plan + 1], taken[job.id] = job, true
    if name then held[name], job.lock, job.ms, job.ends = job.id, name, ms, string.format(' %.0f', now + ms) end
  end
  out[#out + 1] = first and '=' .. first or is_stopped and '2' or plan[#plan] == job and '1' or '0'
end
for _, job in ipairs(plan) do
  redis.call('SADD', jobs, job.id) -- known already, if it only goes on
  if job.result then redis.call('DEL', job.result) end
  if job.throttle then
    redis.call('SET', job.throttle, job.id .. job.ends, 'PX', job.ms)
  elseif job.lock then
    redis.call('HSET', unique, job.lock, job.id .. (job.ms ~= '0' and job.ends or ''))
  end
  if job.due then
    redis.call('ZADD', scheduled, string.format('%.0f', job.due), job.id)
    redis.call('HSET', messages, job.id, job.message)
  else
    redis.call('LPUSH', KEYS[6 + job.level], job.message)
  end
  token = token or (job.due and job.due < soonest) or (not job.due and job.level > 0)
end
if token and redis.call('LLEN', main) == 0 then redis.call('LPUSH', main, '') end
out = table.concat(out, ' ')
redis.call('HSET', sent, lane, string.format('%.0f', number) .. ' ' .. out)
redis.call('EXPIRE', sent, ARGV[3])
return out
