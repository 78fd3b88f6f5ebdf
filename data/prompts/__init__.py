"""Prompt sets as data: one JSON file each, read by `busistore.prompts`, installed as `busistore.prompt_sets`.

The i-th texts of all classes belong together: in `plain` they fill one template, in `bi-rads` they speak, as far as
normal tissue allows, of one row of the lexicon.
"""
