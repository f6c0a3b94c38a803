"""The wind tunnel: an idea for training tried on the smallest owls and the drawn world before it is paid for.

`study.py` says what a study is, `tree.py` trains its stages, each once, `columns.py` and `judgement.py` make numbers
and verdicts of the answers, `page.py` and `plot.py` show them, `run.py` does all of it and `command.py` is `owl lab`.
How stages train and how questions are asked is not known here: that is the business of train and eval.
"""
