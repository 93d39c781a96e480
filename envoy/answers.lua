-- The answers: gives every answer its status, its shape and its headers.
--
-- It sees answers after the transcoder:
--   * from a documented API, made by the orchestrator: JSON, CSV or HTML, whose status arrives as `x-http-status`;
--   * from /v1: JSON, or a google.rpc.Status {code, message, details} with the HTTP status that belongs to the code;
--   * of Envoy's own: already in the documented shape (edge.yaml: local_reply_config).
-- Reading a body suspends the script, which makes what `handle:headers()` gave before unusable: it is asked anew.
--
-- There is no JSON library here and none is needed: a google.rpc.Status is put whole into the answer, and the one
-- string that is taken out of it is taken in its escaped form.

local MESSAGES = {
  ["400"] = "Validation error",
  ["401"] = "Authentication required",
  ["403"] = "Not allowed",
  ["404"] = "Not found",
  ["408"] = "Request timeout",
  ["409"] = "Conflict",
  ["413"] = "Validation error",
  ["429"] = "Too many requests",
  ["499"] = "Processing interrupted",
  ["500"] = "Internal server error",
  ["501"] = "Not implemented",
  ["503"] = "Service unavailable",
  ["504"] = "Processing timeout",
}

-- The string value of `key` in a flat part of a JSON text, with its quotes and escapes, or nil.
local function json_string(json, key)
  local _, start = json:find('"' .. key .. '":%s*"')
  if not start then
    return nil
  end
  local at = start + 1
  while at <= #json do
    local byte = json:byte(at)
    if byte == 92 then -- a backslash: the next character is escaped
      at = at + 2
    elseif byte == 34 then
      return json:sub(start, at)
    else
      at = at + 1
    end
  end
  return nil
end

local function timestamp(handle)
  local micros = handle:timestampString(EnvoyTimestampResolution.MICROSECOND)
  return os.date("!%Y-%m-%dT%H:%M:%S", tonumber(micros:sub(1, -7))) .. "." .. micros:sub(-6)
end

local function add_missing(headers, name, value)
  if not headers:get(name) then
    headers:add(name, value)
  end
end

-- A google.rpc.Status in the documented shape.
local function reshape(handle)
  local body = handle:body(true)
  local headers = handle:headers()
  local size = body:length()
  local json = size > 0 and body:getBytes(0, size) or ""
  if json:sub(1, 1) ~= "{" or not json:find('^{%s*"code":') then
    return
  end
  local status = headers:get(":status")
  local detail = json_string(json:match('^{%s*"code":%s*%d+,%s*"message".*') or "", "message")
  if json:find('"reason":"TOO_LARGE"', 1, true) and json:find('"unit":"bytes"', 1, true) then
    status = "413"
  end
  local delay = json:match('"retry_delay":"([%d.]+)s"') or json:match('"retryDelay":"([%d.]+)s"')
  if delay then
    add_missing(headers, "retry-after", tostring(math.max(1, math.ceil(tonumber(delay)))))
  end
  local own = handle:metadata():get("api") == "own"
  local known = handle:streamInfo():dynamicMetadata():get("pentimento")
  local text = string.format(
    '{"success":false,"message":"%s","error":%s,"timestamp":"%s","request_id":"%s"%s}',
    MESSAGES[status] or "Request failed", detail or "null", timestamp(handle), known and known["request_id"] or "",
    own and (',"status":' .. json) or "")
  headers:replace(":status", status)
  headers:replace("content-type", "application/json")
  headers:replace("content-length", tostring(body:setBytes(text)))
end

-- The field that is the whole answer (`response_body` in the contracts, which the transcoder does not know): the
-- response has no other, so what surrounds it is cut off.
local function unwrap(handle)
  local known = handle:streamInfo():dynamicMetadata():get("pentimento")
  local field = known and known["response_body"]
  if not field then
    return
  end
  local body = handle:body(true)
  local size = body:length()
  local prefix = '{"' .. field .. '":'
  if size > #prefix and body:getBytes(0, #prefix) == prefix then
    handle:headers():replace("content-length", tostring(body:setBytes(body:getBytes(#prefix, size - #prefix - 1))))
  end
end

-- An answer whose status the orchestrator chose says itself when to come back, if that helps (a model that is not
-- installed is not there in a second either).
local function finish(headers, chosen)
  -- These belong to gRPC; its status is in the body.
  for _, name in ipairs({"status", "message", "status-details-bin", "encoding", "accept-encoding"}) do
    headers:remove("grpc-" .. name)
  end
  local status = headers:get(":status")
  if status == "429" then
    add_missing(headers, "retry-after", headers:get("x-ratelimit-reset") or "1")
  elseif status == "503" and not chosen then
    add_missing(headers, "retry-after", "1")
  end
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local content_type = headers:get("content-type") or ""
  add_missing(headers, "x-content-type-options", "nosniff")
  add_missing(headers, "referrer-policy", "no-referrer")
  add_missing(headers, "cache-control", "no-store")
  headers:add("vary", "Origin")
  if content_type:sub(1, 16) == "application/grpc" then
    return
  end
  if content_type:sub(1, 16) == "application/json" then
    add_missing(headers, "content-security-policy", "default-src 'none'; frame-ancestors 'none'")
  end

  local chosen = headers:get("x-http-status")
  if chosen then
    headers:remove("x-http-status")
    if chosen:find("^[2-5]%d%d$") then
      headers:replace(":status", chosen)
    end
  elseif tonumber(headers:get(":status")) >= 400 then
    reshape(handle)
  else
    unwrap(handle)
  end
  finish(handle:headers(), chosen)
end
