// An HTTP handler in JavaScript (QuickJS) on WASI 0.3: it answers with the request's method and path.

import { Response, Fields } from 'wasi:http/types@0.3.0';

// QuickJS has no TextEncoder.
const bytes = (text) => Uint8Array.from(unescape(encodeURIComponent(text)), (c) => c.charCodeAt(0));

export const handler = {
  async handle(request) {
    const body = bytes(`hello from javascript: ${request.getMethod().tag} ${request.getPathWithQuery()}\n`);
    // The body and the trailers are streams that are read after the answer is given.
    const stream = wit.Stream.from((async function* () { yield body; })(), wit.Stream.U8);
    const trailers = wit.Future.from(
      { tag: 'ok', val: null }, wit.Future.RESULT_OPTION_OTHER_ERROR_CODE);
    const headers = Fields.fromList([['content-type', bytes('text/plain')]]);
    const [response] = Response.new(headers, stream.readable, trailers.readable);
    return response;
  },
};
