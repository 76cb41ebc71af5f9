"""The pages for people, server-rendered; they need no JavaScript."""
