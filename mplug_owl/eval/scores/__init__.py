"""The scorers of published benchmarks, each proved equal to the official one item by item.

One module for each shape of answer: `vqa`, `anls`, `relaxed`, `yesno`, `hallusion`, `choice`, `exams`, `captions`,
`review`. They take texts and labels and give numbers; tasks, files and models are not known here. Where an official
scorer has a quirk that changes its number, the quirk is kept and named.
"""
