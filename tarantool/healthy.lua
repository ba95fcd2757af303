#!/usr/bin/env tarantool
-- Whether the instance that listens at MTS_LISTEN answers the brokers' user, leader or not: exit status 0. Else it says
-- why, and the status is 1. For probes; takes its settings from the environment of init.lua.

local TIMEOUT = 2

local listen = os.getenv('MTS_LISTEN') or '127.0.0.1:3301'
local host, port = listen:match('^(.-):?(%d+)$')
if host == nil or host == '' or host == '0.0.0.0' or host == '[::]' or host == '*' then
    host = '127.0.0.1'
end

local connection
local ok, answer = pcall(function()
    connection = require('net.box').connect(host, port, {
        user = os.getenv('MTS_USER') or 'minitoolstream',
        password = os.getenv('MTS_PASSWORD'),
        connect_timeout = TIMEOUT,
    })
    return connection:call('mts.status', {}, { timeout = TIMEOUT })
end)
if ok and answer == 'ok' then
    os.exit(0)
end
-- With a new password in the environment: the one that takes writes will make it known to all. The next one is not restarted
-- before this one counts as well.
local is_one_of_many = (os.getenv('MTS_REPLICATION') or '') ~= ''
local why = tostring(connection and connection.error):lower()
local is_refused = why:find('password') or why:find('credentials')
if is_one_of_many and is_refused then
    os.exit(0)
end
io.stderr:write(('Tarantool at %s:%s does not answer as it should: %s\n'):format(host, port, tostring(answer)))
os.exit(1)
