"""Search over HTTP: `fieldmark serve`. Import from the modules; the decoding processes must not load torch.

- `config`: address, limits, token
- `guard`: what every request passes: size, host, origin, token, admission, security headers, log
- `decoding`, `decoder_process`: uploaded pictures are decoded in processes with limits of time and memory
- `batching`: requests share the encoder's batches, in a bounded queue
- `confinement`: files of the collection, never others
- `answers`: search, explain, pictures and changes; `app`: the routes; `server`: uvicorn
- `static`: the page
"""
