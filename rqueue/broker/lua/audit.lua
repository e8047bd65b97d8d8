-- audit: what stands in a worker's processing list, by its fingerprints.
--
-- KEYS[1] processing  LIST  what this worker has claimed
-- returns for each message, the last claimed first, its length, a colon and its first 256 bytes, which hold its id;
--         '' for a token
--
-- One look at one moment: parts read one after the other could miss what a settle moved between them, and the messages
-- themselves may be many megabytes.
local out = {}
if redis.call('TYPE', KEYS[1]).ok ~= 'list' then return out end
for i, message in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  out[i] = message == '' and '' or #message .. ':' .. string.sub(message, 1, 256)
end
return out
