"""Mixture of Contexts: sparse attention that chooses what to remember.

Cai et al. 2025, arXiv 2508.21058. The sequence is cut into chunks along its
content (frames, shots, captions). Every query token of every head reads

  anchors   the text and its own shot, always
  routed    the k chunks ω whose mean key scores highest, q · mean(K_ω)  (eq. 3)

and nothing else: one softmax over all of it. `chunks` is the table of a
sequence, `routing` chooses, `attend` is the entry. No array has tokens × tokens
or heads × tokens × chunks elements.

How it runs: a *branch* is attention of tiles of queries over ranges of whole
blocks of keys, which an executor of `executors` computes, forwards and
backwards. The anchors are one branch, whose queries and keys are packed shot by
shot; the routed chunks are another, whose queries are gathered chunk by chunk
(as MoBA does, Lu et al. 2025). So no tile ever needs a mask but for the ragged
end of a block. The two are merged by their log-sum-exps.

Shapes, besides those of `attention`:

  C chunks     K routed slots of a query     R ranges of blocks of a tile
  U units: what is padded to whole blocks when packed (a shot, a chunk)
  P packed rows of keys        Q packed or gathered rows of queries
  M tables of a branch: one for each sample, or for each sample and head
"""
