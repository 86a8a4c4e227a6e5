"""The site: what commands have written as JSON, the catalogues and docs/, as pages that need no server (`make site`).

    python -m properties.commands.site --out build/site

`facts` gathers, `pages` draws what is generated, `staging` puts docs/ beside it, zensical renders both into one site
with one search, and `links` looks whether every link arrives.
"""
