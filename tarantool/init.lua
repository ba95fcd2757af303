#!/usr/bin/env tarantool
-- The metadata store of MiniToolStream: reads its settings from the environment, makes the schema and the users, and
-- opens its port. What brokers call is in mts/facade.lua; compatibility.md tells what differs between versions.
--
--   MTS_LISTEN        address to listen on                  127.0.0.1:3301
--   MTS_USER          the brokers' user                     minitoolstream
--   MTS_PASSWORD      its password                          required
--   MTS_DIR           directory of log and snapshots        .
--   MTS_MEMORY        bytes for rows and indexes            268435456
--   MTS_WAL_MODE      fsync: durable before the answer; write: after a crash of the machine the last moments are lost
--   MTS_NET_MSG_MAX   requests at once, waiting ones too    10000
--
-- Several instances that elect a leader (Tarantool 2.11), each with the same settings:
--
--   MTS_REPLICATION           host:port of each, this one too, separated by commas; empty: a single instance
--   MTS_REPLICATION_USER      by whom they reach each other         replicator
--   MTS_REPLICATION_PASSWORD  its password                          required with MTS_REPLICATION

local here = debug.getinfo(1, 'S').source:match('^@(.*)/[^/]*$') or '.'
package.path = here .. '/?.lua;' .. package.path

local settings = require('mts.settings').read()
local schema = require('mts.schema')
local replica = require('mts.replica')
local term = require('mts.term')
local user = require('mts.user')

-- Before the port opens: whoever is let in finds them, and is told to wait.
local functions = require('mts.facade').functions()
rawset(_G, 'mts', functions)

-- What the instance that takes writes brings about. Each step leaves alone what is there: rows that only a leader has
-- when it dies would stop the replication of those that go on without it.
local function prepare()
    local peers = settings.peers
    if peers ~= nil then
        -- The others cannot join without it, and a synchronous write before one has joined would keep it out for ever.
        user.replicate(peers.user, peers.password)
        replica.wait_followers(peers.quorum - 1)
    end
    schema.upgrade(peers ~= nil)
    user.grant(settings.user, settings.password, functions)
    if peers ~= nil then
        schema.confirm(term.number())
    end
end

if settings.peers ~= nil then
    -- They look for each other before any of them is ready.
    settings.box.listen = settings.listen
    local ok, err = pcall(box.cfg, settings.box)
    if not ok then
        if tostring(err):find('unexpected option') then
            err = ('MTS_REPLICATION: Tarantool %s has no elections (%s): use 2.11, or leave it empty for a single '
                .. 'instance'):format(require('tarantool').version, tostring(err))
        end
        error(err, 0)
    end
    term.start(prepare)
else
    -- The port opens last: who is let in finds everything in place.
    box.cfg(settings.box)
    if not box.info.ro then
        prepare()
    end
    term.start(prepare)
    box.cfg({ listen = settings.listen })
end
