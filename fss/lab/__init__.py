"""For research: campaigns, the paper's tables, costs and timings. The core never imports it."""
