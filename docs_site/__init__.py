"""Makes the pages of docs/ a site: hooks of MkDocs, which mkdocs.yml names."""
