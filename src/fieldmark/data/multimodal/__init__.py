"""Multimodal retrieval data, read into `fieldmark.data.retrieval.RetrievalTask`. Import from the modules:

- `mbeir`: M-BEIR as published, and everything in its layout (`mbeir_layout` names the files, `mbeir_writing` writes)
- `convert`: one's own queries and candidates, two JSONL files → M-BEIR's layout
- `inspection`: what of M-BEIR lies in a folder, and what is missing
- `nli`: triplets of sentences for language-only training
- `video`, `video_tasks`: frames of videos; MSR-VTT's and MSVD's annotations
- `item_pictures`, `item_loader`: the pictures of items, decoded ahead of the step
- `json_lines`: JSONL files of any length as sequences
"""
