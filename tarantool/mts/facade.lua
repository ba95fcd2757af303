-- What brokers call: each function is one transaction, and answers with a word and a value: 'ok' and the answer, or the
-- kind of a fault and its message. Writes take the id of the call first. One instance takes calls, the others refuse
-- them, reads too: what they have may be behind, or not be committed.

local block = require('mts.block')
local broker = require('mts.broker')
local commit = require('mts.commit')
local consumer = require('mts.consumer')
local fault = require('mts.fault')
local head = require('mts.head')
local lease = require('mts.lease')
local letter = require('mts.letter')
local memory = require('mts.memory')
local message_id = require('mts.message_id')
local payload = require('mts.payload')
local position = require('mts.position')
local replica = require('mts.replica')
local restore = require('mts.restore')
local retention = require('mts.retention')
local schedule = require('mts.schedule')
local stream = require('mts.stream')
local subject = require('mts.subject')
local term = require('mts.term')
local transaction = require('mts.transaction')
local upload = require('mts.upload')
local view = require('mts.view')

local READS = {
    block_find = block.find,
    block_list = block.list,
    consumer_names = consumer.names,
    consumer_read = consumer.read,
    lease_holds = lease.holds,
    memory_check = memory.check,
    memory_usage = memory.usage,
    payload_garbage = payload.garbage,
    payload_list = payload.list,
    position_get = position.get,
    position_list = position.list,
    schedule_next = schedule.next_due,
    stream_at = stream.at,
    stream_next = stream.next,
    stream_scan = stream.scan,
    subject_list = subject.list,
    subject_read = subject.read,
    upload_list = upload.list,
    upload_read = upload.read,
    view_holds = view.holds,
    view_open = view.open,
}

local WRITES = {
    broker_join = broker.join,
    broker_leave = broker.leave,
    broker_renew = broker.renew,
    commit = commit.commit,
    consumer_change = consumer.change,
    consumer_create = consumer.create,
    consumer_delete = consumer.delete,
    id_forget = message_id.forget,
    lease_acquire = lease.acquire,
    lease_release = lease.release,
    letter_move = letter.move,
    payload_forget = payload.forget_garbage,
    payload_open = payload.open,
    payload_recount = payload.recount,
    payload_seal = payload.seal,
    retention_expire = retention.expire,
    retention_purge = retention.purge,
    schedule_deliver = schedule.deliver,
    upload_abandon = upload.abandon,
    upload_begin = upload.begin,
    upload_expire = upload.expire,
    upload_save = upload.save,
}

-- A restore closes the store to all but these.
local RESTORE_READS = {
    broker_count = broker.count,
    restore_read = restore.read,
}

local RESTORE_WRITES = {
    restore_begin = restore.begin,
    restore_finish = restore.finish,
    restore_rows = restore.rows,
}

-- These look at no row that could be undone: a view was looked at twice when it was opened.
local VIEWS = {
    view_close = view.close,
    view_keep = view.keep,
    view_rows = view.rows,
}

-- The version of this interface, and the oldest that it serves: brokers of both work side by side while an installation
-- is upgraded. A function whose arguments or answer change gets a new name, and the old one stays for as long as OLDEST
-- says so (docs/storage-format.md).
local INTERFACE, OLDEST = 2, 2

-- Brokers that call this version do not tell which they call.
local UNTOLD = 2

local function reply(answer, err)
    if err ~= nil then
        if err.is_memory then
            memory.ran_out()
        end
        return err.kind, err.message
    end
    return 'ok', answer
end

-- The version that a broker is served: the one that it calls, or else the present one, which it will not take.
local function offer(called)
    if called >= OLDEST and called <= INTERFACE then
        return called
    end
    return INTERFACE
end

-- What a broker asks of each instance, to find the one that takes calls and to tell how the others are; `called` is the
-- version of the interface that it calls. The form of this answer is that of all versions.
local function status(called)
    return 'ok', { offer(called or UNTOLD), not term.is_mine(), term.number(), replica.stopped(), memory.is_scarce() }
end

-- A function for the instance that takes calls alone.
local function by_leader(call)
    return function(...)
        if not term.is_mine() then
            return reply(nil, fault.new(fault.KIND.READ_ONLY, 'this instance takes no calls: ask another'))
        end
        return reply(call(...))
    end
end

local function reading(work)
    return function(...)
        return transaction.read(work, ...)
    end
end

local function writing(work)
    return function(id, ...)
        return transaction.write(id, head.publish, work, ...)
    end
end

-- A function that a restore keeps from running.
local function unless_restoring(call)
    return function(...)
        local err = restore.refuse()
        if err ~= nil then
            return nil, err
        end
        return call(...)
    end
end

local function functions()
    local made = { status = status, head_wait = by_leader(head.wait) }
    for name, work in pairs(READS) do
        made[name] = by_leader(unless_restoring(reading(work)))
    end
    for name, work in pairs(WRITES) do
        made[name] = by_leader(unless_restoring(writing(work)))
    end
    for name, work in pairs(RESTORE_READS) do
        made[name] = by_leader(reading(work))
    end
    for name, work in pairs(RESTORE_WRITES) do
        made[name] = by_leader(writing(work))
    end
    for name, work in pairs(VIEWS) do
        made[name] = by_leader(work)
    end
    return made
end

return { functions = functions }
