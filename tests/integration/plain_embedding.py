"""``plain_embedding.py MODEL``: token lists come as JSON, vectors go as JSON, by llama.cpp alone, one at a time."""

from __future__ import annotations

import json
import sys

import numpy as np
from llama_cpp import llama_cpp as llama

N_CTX = 512


def main(path: str, texts: list[list[int]]) -> list[list[float]]:
    llama.llama_backend_init()
    params = llama.llama_model_default_params()
    params.n_gpu_layers = 0
    model = llama.llama_model_load_from_file(path.encode(), params)
    wanted = llama.llama_context_default_params()
    wanted.embeddings = True
    wanted.n_ctx = wanted.n_batch = wanted.n_ubatch = N_CTX
    context = llama.llama_init_from_model(model, wanted)
    vectors = []
    for tokens in texts:
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        given = (llama.llama_token * len(tokens))(*tokens)
        run = llama.llama_decode if llama.llama_get_memory(context) else llama.llama_encode
        assert run(context, llama.llama_batch_get_one(given, len(tokens))) == 0
        found = llama.llama_get_embeddings_seq(context, 0)
        vector = np.ctypeslib.as_array(found, shape=(llama.llama_model_n_embd_out(model),))
        vectors.append((vector / np.linalg.norm(vector)).tolist())
    return vectors


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], json.load(sys.stdin))))
