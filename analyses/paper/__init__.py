"""The numbers of the Hunyuan-Large report (arXiv:2411.02265), each recomputed by this project's own functions.

paper_report()     the document of `hunyuan paper`; neither torch, numpy nor pandas is loaded
plot_paper(...)    figures 2 and 3 of the report, from this project's code and runs
"""
