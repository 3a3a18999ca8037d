"""Each vendor's request and answer formats, as that vendor documents them. Nothing goes out."""
