"""The pages that visitors see instead of the app: facts in words, our own page, and the operator's."""
