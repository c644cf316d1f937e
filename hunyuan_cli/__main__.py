"""python -m hunyuan_cli: the same program as the installed command `hunyuan`."""

from hunyuan_cli.main import main

if __name__ == "__main__":
    main()
