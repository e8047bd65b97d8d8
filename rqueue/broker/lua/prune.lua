-- prune: locks whose jobs have ended are thrown away, a page in each step.
--
-- KEYS[1] unique  HASH  lock -> id of the job that holds it, and until when at most in ms
-- KEYS[2] jobs    SET   ids of jobs that are not settled
-- ARGV[1] where to go on ('0' at the beginning), ARGV[2] how many to look at, about
-- returns where to go on, '0' at the end
--
-- What a killed worker, a purge or a lost reply has left. May be repeated.
local unique, jobs = KEYS[1], KEYS[2]
local page = redis.call('HSCAN', unique, ARGV[1], 'COUNT', ARGV[2])
for i = 1, #page[2], 2 do
  if redis.call('SISMEMBER', jobs, string.match(page[2][i + 1], '^%S*')) == 0 then
    redis.call('HDEL', unique, page[2][i])
  end
end
return page[1]
