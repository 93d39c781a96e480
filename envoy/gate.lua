-- The gate: turns away, before anything is read or counted, what no route of the contracts can answer.
--
-- ROUTES is made out of the contracts by envoy/render.py and stands above this text; a row is
--   {pattern of the path, {METHOD = field of the response that is the whole answer, or ""}, "METHOD, METHOD"}.
-- What `respond` says here becomes `error` in the documented shape (edge.yaml: local_reply_config).

-- An upload that is too large by no more than this factor is read to its end before it is refused (see refuse.lua).
local DRAINED_LIMITS = 4

local function route_of(path)
  for _, route in ipairs(ROUTES) do
    if path:find(route[1]) then
      return route
    end
  end
  return nil
end

-- A client's own request id goes into logs and headers of every service: a short token, or what is left of it.
local function clean_request_id(headers)
  local id = headers:get("x-request-id")
  if id and (#id > 128 or id:find("[^%w%-_.:/+=]")) then
    local clean = id:gsub("[^%w%-_.:/+=]", ""):sub(1, 128)
    headers:replace("x-request-id", clean ~= "" and clean or "invalid")
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  clean_request_id(headers)
  handle:streamInfo():dynamicMetadata():set("pentimento", "request_id", headers:get("x-request-id") or "")
  local about = handle:metadata()
  local api = about:get("api")
  local content_type = (headers:get("content-type") or ""):lower()

  if api == "grpc" then
    if content_type:sub(1, 16) ~= "application/grpc" then
      handle:respond({[":status"] = "415"}, "This path is gRPC. The REST API has others.")
    end
    return
  end

  local path = (headers:get(":path") or ""):gsub("[?#].*$", "") -- CONNECT has none
  if #path > 1 then
    path = path:gsub("/$", "")
  end
  local route = route_of(path)
  if not route then
    handle:respond({[":status"] = "404"}, "There is nothing at this path.")
    return
  end
  local response_body = route[2][headers:get(":method")]
  if not response_body then
    handle:respond({[":status"] = "405", ["allow"] = route[3] .. ", OPTIONS"}, "This path takes " .. route[3] .. ".")
    return
  end
  if response_body ~= "" then
    handle:streamInfo():dynamicMetadata():set("pentimento", "response_body", response_body)
  end

  -- curl and old scripts send JSON as a form; a browser's file upload is certainly a mistake on these paths.
  if api == "own" and (content_type:sub(1, 10) == "multipart/" or content_type:sub(1, 6) == "image/") then
    handle:respond({[":status"] = "415"}, "This path takes application/json; pictures go into it as base64 or by uri.")
    return
  end
  local length = tonumber(headers:get("content-length") or "0") or 0
  local limit = about:get("bytes")
  if limit and limit > 0 and length > limit then
    local words = string.format("Request size %d bytes exceeds maximum %d bytes", length, limit)
    if length <= DRAINED_LIMITS * limit then
      headers:replace("x-pentimento-refuse", "413 " .. words)
    else
      -- The connection is closed because nobody is going to read the rest.
      handle:respond({[":status"] = "413", ["connection"] = "close"}, words)
    end
  end
end
