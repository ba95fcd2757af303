-- Users: the brokers' may call the functions, the instances' may replicate, and none of them anything else. Nothing is
-- written that is there already.

local function ensure(name, password)
    if not box.schema.user.exists(name) then
        box.schema.user.create(name, { password = password })
        return
    end
    local known = box.space._user.index.name:get(name).auth['chap-sha1']
    if known ~= box.schema.user.password(password) then
        box.schema.user.passwd(name, password)
    end
end

-- Makes the brokers' user and what it may do, on the instance that takes writes.
local function grant(name, password, functions)
    ensure(name, password)
    for of in pairs(functions) do
        local full = 'mts.' .. of
        -- As their owner: the user itself may not touch a space.
        box.schema.func.create(full, { setuid = true, if_not_exists = true })
        box.schema.user.grant(name, 'execute', 'function', full, { if_not_exists = true })
    end
end

-- Makes the user by which instances reach each other.
local function replicate(name, password)
    ensure(name, password)
    box.schema.user.grant(name, 'replication', nil, nil, { if_not_exists = true })
end

return {
    grant = grant,
    replicate = replicate,
}
