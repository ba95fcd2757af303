#!/usr/bin/env tarantool
-- The metadata store of MiniToolStream: reads its settings from the environment, makes the schema and the user, and
-- opens its port. What brokers call is in mts/facade.lua; compatibility.md tells what differs between versions.
--
--   MTS_LISTEN        address to listen on                  127.0.0.1:3301
--   MTS_USER          the brokers' user                     minitoolstream
--   MTS_PASSWORD      its password                          required
--   MTS_DIR           directory of log and snapshots        .
--   MTS_MEMORY        bytes for rows and indexes            268435456
--   MTS_WAL_MODE      fsync: durable before the answer; write: after a crash of the machine the last moments are lost
--   MTS_NET_MSG_MAX   requests at once, waiting ones too    10000

local here = debug.getinfo(1, 'S').source:match('^@(.*)/[^/]*$') or '.'
package.path = here .. '/?.lua;' .. package.path

local function setting(name, default)
    local value = os.getenv(name)
    if value == nil or value == '' then
        return default
    end
    return value
end

local function number_setting(name, default)
    local value = setting(name, default)
    return tonumber(value) or error(("%s: '%s' is not a number"):format(name, value))
end

local password = setting('MTS_PASSWORD') or error('MTS_PASSWORD is not set: give the password of the brokers\' user')
local dir = setting('MTS_DIR', '.')

-- The port opens last: who is let in finds everything in place.
box.cfg({
    memtx_dir = dir,
    wal_dir = dir,
    vinyl_dir = dir,
    memtx_memory = number_setting('MTS_MEMORY', 268435456),
    -- A block with its messages may be this large, and some more for its row.
    memtx_max_tuple_size = 16 * 1024 * 1024,
    wal_mode = setting('MTS_WAL_MODE', 'fsync'),
    net_msg_max = number_setting('MTS_NET_MSG_MAX', 10000),
    readahead = 1024 * 1024,
    checkpoint_count = 2,
})

local functions = require('mts.facade').functions()
rawset(_G, 'mts', functions)

if not box.info.ro then
    require('mts.schema').upgrade()
    require('mts.user').grant(setting('MTS_USER', 'minitoolstream'), password, functions)
end

box.cfg({ listen = setting('MTS_LISTEN', '127.0.0.1:3301') })
