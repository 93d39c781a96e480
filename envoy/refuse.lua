-- The refusal of an upload, in two steps: the same script stands before the transcoder and after it.
--
-- A client that is answered while it still sends, over HTTP/1.1, finds its connection reset and may never read why. So
-- who refuses (`gate` for the size, local_ratelimit for the number) only sets the header x-pentimento-refuse, to a
-- status and words. Before the transcoder, the body is then let in and thrown away, piece by piece; after the
-- transcoder, this script waits for the end of what is left (next to nothing) and speaks the refusal. A gRPC client is
-- answered at once: HTTP/2 can do that. Nothing of it reaches the orchestrator.

local GRPC_RESOURCE_EXHAUSTED = "8"

local function drain(handle)
  local nothing = "{}" -- what a typed method takes for an empty request
  for chunk in handle:bodyChunks() do
    chunk:setBytes(nothing)
    nothing = ""
  end
end

-- `refusal` is a status and, after a space, the words.
local function speak(handle, refusal)
  local headers = {[":status"] = refusal:sub(1, 3)}
  if headers[":status"] == "429" and handle:metadata():get("api") == "grpc" then
    headers["grpc-status"] = GRPC_RESOURCE_EXHAUSTED
  end
  handle:respond(headers, refusal:sub(5))
end

function envoy_on_request(handle)
  local refusal = handle:headers():get("x-pentimento-refuse")
  if not refusal then
    return
  end
  local is_grpc = handle:metadata():get("api") == "grpc"
  local known = handle:streamInfo():dynamicMetadata():get("pentimento.refuse")
  if not known then
    handle:streamInfo():dynamicMetadata():set("pentimento.refuse", "drained", true)
    if not is_grpc then
      drain(handle)
    end
    return
  end
  if not is_grpc then
    handle:body()
  end
  speak(handle, refusal)
end
