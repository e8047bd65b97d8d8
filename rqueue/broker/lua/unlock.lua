-- unlock: the locks of jobs that have ended, or need them no longer, are given up.
--
-- KEYS[1] unique  HASH  lock -> id of the job that holds it, and until when at most in ms
-- KEYS[2] jobs    SET   ids of jobs that are not settled
-- ARGV[1] '1' only if the job has ended: a new job of the same id may hold the lock by now
-- ARGV[2..] for each lock: its name, the id of the job
-- returns how many were given up
--
-- May be repeated, and need not happen: a lock of a job that has ended counts for nothing, it only takes room.
local unique, jobs, gone = KEYS[1], KEYS[2], 0
for i = 2, #ARGV, 2 do
  local entry, id = redis.call('HGET', unique, ARGV[i]), ARGV[i + 1]
  if entry and string.match(entry, '^%S+') == id and (ARGV[1] ~= '1' or redis.call('SISMEMBER', jobs, id) == 0) then
    gone = gone + redis.call('HDEL', unique, ARGV[i])
  end
end
return gone
