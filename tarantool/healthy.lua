#!/usr/bin/env tarantool
-- Whether the instance that listens at MTS_LISTEN answers the brokers' user, leader or not: exit status 0. Else it says
-- why, and the status is 1. For probes; takes its settings from the environment of init.lua.

local TIMEOUT = 2

local listen = os.getenv('MTS_LISTEN') or '127.0.0.1:3301'
local host, port = listen:match('^(.-):?(%d+)$')
if host == nil or host == '' or host == '0.0.0.0' or host == '[::]' or host == '*' then
    host = '127.0.0.1'
end

local ok, answer = pcall(function()
    local connection = require('net.box').connect(host, port, {
        user = os.getenv('MTS_USER') or 'minitoolstream',
        password = os.getenv('MTS_PASSWORD'),
        connect_timeout = TIMEOUT,
    })
    return connection:call('mts.status', {}, { timeout = TIMEOUT })
end)
if ok and answer == 'ok' then
    os.exit(0)
end
io.stderr:write(('Tarantool at %s:%s does not answer as it should: %s\n'):format(host, port, tostring(answer)))
os.exit(1)
