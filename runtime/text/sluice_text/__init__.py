"""The text side of Sluice: tokenizers, chat templates and dataset files, turned into token files (TOKEN_FILE.md)."""
