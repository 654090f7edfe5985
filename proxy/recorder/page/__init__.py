"""The live page: what is happening now, as figures under `/api/` and as the page that draws them."""
