-- What the environment says, as `init.lua` lists it: all of it is read and checked before anything is opened.

-- Instances of one replica set; Tarantool itself numbers no more than 31.
local INSTANCES_MIN, INSTANCES_MAX = 3, 31

local function text(name, default)
    local value = os.getenv(name)
    if value == nil or value == '' then
        return default
    end
    return value
end

local function number(name, default)
    local value = text(name, default)
    return tonumber(value) or error(("%s: '%s' is not a number"):format(name, value), 0)
end

local function required(name, what)
    return text(name) or error(('%s is not set: give %s'):format(name, what), 0)
end

-- The instances that elect a leader, or nil for a single one.
local function instances()
    local list = text('MTS_REPLICATION')
    if list == nil then
        return nil
    end
    local found, seen = {}, {}
    for address in list:gmatch('[^,%s]+') do
        if not address:match('^[^:@/]+:%d+$') then
            error(("MTS_REPLICATION: '%s' is not host:port"):format(address), 0)
        elseif seen[address] then
            error(("MTS_REPLICATION: '%s' is there twice: name each instance once"):format(address), 0)
        end
        seen[address] = true
        table.insert(found, address)
    end
    if #found < INSTANCES_MIN or #found > INSTANCES_MAX then
        error(('MTS_REPLICATION names %d instances: give %d to %d (three outlive the loss of one), or leave it empty '
            .. 'for a single instance'):format(#found, INSTANCES_MIN, INSTANCES_MAX), 0)
    end
    return found
end

-- How the instances reach each other. The password is part of an address: nothing in it may have a meaning there.
local function peers(addresses)
    local user = text('MTS_REPLICATION_USER', 'replicator')
    local password = required('MTS_REPLICATION_PASSWORD', 'the password by which instances know each other')
    for name, value in pairs({ MTS_REPLICATION_USER = user, MTS_REPLICATION_PASSWORD = password }) do
        if value:find('[^%w._~%-]') then
            error(('%s may have letters, digits and . _ ~ - only: it is part of an address'):format(name), 0)
        end
    end
    local uris = {}
    for _, address in ipairs(addresses) do
        table.insert(uris, ('%s:%s@%s'):format(user, password, address))
    end
    return { user = user, password = password, uris = uris, quorum = math.floor(#uris / 2) + 1 }
end

-- Elections and synchronous replication: what was measured under `kill -9` and SIGSTOP, see ADR 0013.
local function elections(of)
    return {
        replication = of.uris,
        replication_synchro_quorum = of.quorum,
        -- Whoever gave up a commit by himself would contradict a leader that has it.
        replication_synchro_timeout = 1000000,
        replication_timeout = 0.25,
        election_mode = 'candidate',
        election_timeout = 0.5,
        election_fencing_mode = 'soft',
        bootstrap_strategy = 'auto',
    }
end

local function read()
    local password = required('MTS_PASSWORD', 'the password of the brokers\' user')
    local dir = text('MTS_DIR', '.')
    local addresses = instances()
    local settings = {
        user = text('MTS_USER', 'minitoolstream'),
        password = password,
        listen = text('MTS_LISTEN', '127.0.0.1:3301'),
        peers = addresses and peers(addresses),
    }
    settings.box = settings.peers and elections(settings.peers) or {}
    local memory = number('MTS_MEMORY', 268435456)
    for name, value in pairs({
        memtx_dir = dir,
        wal_dir = dir,
        vinyl_dir = dir,
        memtx_memory = memory,
        -- A block with its messages may be this large, and some more for its row.
        memtx_max_tuple_size = 16 * 1024 * 1024,
        wal_mode = text('MTS_WAL_MODE', 'fsync'),
        net_msg_max = number('MTS_NET_MSG_MAX', 10000),
        readahead = 1024 * 1024,
        -- The disk needs five times the memory: two snapshots and the log since the older one, and one that is being written.
        checkpoint_count = 2,
        checkpoint_wal_threshold = memory,
    }) do
        settings.box[name] = value
    end
    return settings
end

return { read = read }
