-- What brokers call: each function is one transaction, and answers with a word and a value: 'ok' and the answer, or the
-- kind of a fault and its message. Writes take the id of the call first.

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
local retention = require('mts.retention')
local schedule = require('mts.schedule')
local stream = require('mts.stream')
local subject = require('mts.subject')
local transaction = require('mts.transaction')
local upload = require('mts.upload')

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
    payload_seal = payload.seal,
    retention_expire = retention.expire,
    retention_purge = retention.purge,
    schedule_deliver = schedule.deliver,
    upload_abandon = upload.abandon,
    upload_begin = upload.begin,
    upload_expire = upload.expire,
    upload_save = upload.save,
}

-- The version of this interface: a broker that knows another does not start.
local INTERFACE = 1

local function reply(answer, err)
    if err ~= nil then
        if err.is_memory then
            memory.ran_out()
        end
        return err.kind, err.message
    end
    return 'ok', answer
end

-- What a broker asks of each instance to find the one that takes writes.
local function status()
    local election = box.info.election
    return 'ok', { INTERFACE, box.info.ro, election and election.term or 0, box.info.uuid }
end

local function functions()
    local made = { status = status }
    for name, work in pairs(READS) do
        made[name] = function(...)
            return reply(transaction.read(work, ...))
        end
    end
    for name, work in pairs(WRITES) do
        made[name] = function(id, ...)
            if box.info.ro then
                return reply(nil, fault.new(fault.KIND.READ_ONLY, 'this instance is read-only: ask another'))
            end
            return reply(transaction.write(id, head.publish, work, ...))
        end
    end
    made.head_wait = function(...)
        return reply(head.wait(...))
    end
    return made
end

return { functions = functions }
