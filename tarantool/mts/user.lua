-- The broker's user: it may call the functions, and nothing else.

-- Makes the user and what it may do, on the instance that takes writes.
local function grant(name, password, functions)
    if box.schema.user.exists(name) then
        box.schema.user.passwd(name, password)
    else
        box.schema.user.create(name, { password = password })
    end
    for of in pairs(functions) do
        local full = 'mts.' .. of
        -- As their owner: the user itself may not touch a space.
        box.schema.func.create(full, { setuid = true, if_not_exists = true })
        box.schema.user.grant(name, 'execute', 'function', full, { if_not_exists = true })
    end
end

return { grant = grant }
