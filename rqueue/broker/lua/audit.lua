-- audit: what stands in a worker's processing list, by its fingerprints.
--
-- KEYS[1] processing  LIST  what this worker has claimed
-- returns the SHA-1 of each message, the last claimed first; '' for a token
--
-- One look at one moment: parts read one after the other could miss what a settle moved between them, and the messages
-- themselves may be many megabytes.
local out = {}
if redis.call('TYPE', KEYS[1]).ok ~= 'list' then return out end
for i, message in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  out[i] = message == '' and '' or redis.sha1hex(message)
end
return out
