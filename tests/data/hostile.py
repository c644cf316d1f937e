"""Programs that try to do harm, and how each must end: name -> (program, status, words of the reason or of the output).

{outside} is a folder with a secret.txt that is not the program's; {folder} is its own; {parent} is the process that asked;
{port} is a port of this machine on which somebody listens. `call` makes a system call past Python's own checks.
"""

CALL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    print("MARK")
def function(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    print("MARK")
"""
DENIED, FORBIDDEN = "PermissionError: [Errno 13]", "PermissionError: [Errno 1]"

HOSTILE: dict[str, tuple[str, str, str]] = {
    # network
    "tcp": ("import socket; socket.create_connection(('127.0.0.1', {port}))", "error", FORBIDDEN),
    "listen": ("import socket; socket.socket().bind(('127.0.0.1', 0))", "error", FORBIDDEN),
    "udp": ("import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "error", FORBIDDEN),
    "unix socket": ("import socket; socket.socket(socket.AF_UNIX).bind('{outside}/s')", "error", FORBIDDEN),
    "web": ("import urllib.request as u; u.urlopen('http://127.0.0.1:{port}')", "error", "Operation not permitted"),
    "raw socket": (CALL + "function('socket', 2, 3, 1)", "error", FORBIDDEN),
    # processes
    "fork": ("import os\nif os.fork() == 0: open('{folder}/MARK', 'w')", "error", FORBIDDEN),
    "fork bomb": ("import os\nwhile True: os.fork()", "error", FORBIDDEN),
    "patient fork bomb": (
        "import os\nwhile True:\n try: os.fork()\n except OSError: pass", "timeout", "longer than 0.2 seconds",
    ),
    "vfork": (CALL + "function('vfork')", "error", FORBIDDEN),
    "threads": ("import threading\nwhile True: threading.Thread(target=input).start()", "error", "can't start new thread"),
    "shell": ("import os; print(os.system('touch {folder}/MARK') != 0)", "ok", "True"),
    "exec": ("import os; os.execv('/bin/sh', ['sh', '-c', 'touch {folder}/MARK'])", "error", FORBIDDEN),
    "subprocess": ("import subprocess; subprocess.run(['/bin/true'])", "error", FORBIDDEN),
    "spawn": ("import os; os.posix_spawn('/bin/true', ['true'], {{}})", "error", FORBIDDEN),
    "own program": (
        "import os\nopen('x', 'w').write('#!/bin/sh\\ntouch MARK'); os.execv('x', ['x'])", "error", FORBIDDEN,
    ),
    # secrets
    "secret": ("print(open('{outside}/secret.txt').read())", "error", DENIED),
    "users": ("print(open('/etc/passwd').read())", "error", DENIED),
    "list outside": ("import os; print(os.listdir('{outside}'))", "error", DENIED),
    "climb out": ("print(open('../outside/secret.txt').read())", "error", DENIED),
    "this project": ("import os; print(open('{project}/pyproject.toml').read())", "error", DENIED),
    "link to a secret": ("print(open('link').read())", "error", DENIED),
    "environment": ("import os, ctypes\nprint(dict(os.environ)); print(ctypes.CDLL(None).getenv(b'SECRET'))", "ok", "0"),
    "own environment file": ("print(open('/proc/self/environ').read())", "error", DENIED),
    "environment of the parent": ("import os; print(open(f'/proc/{{os.getppid()}}/environ').read())", "error", DENIED),
    "memory of the asking process": ("open('/proc/{parent}/mem', 'rb+')", "error", DENIED),
    "own memory file": ("open('/proc/self/mem', 'rb+')", "error", DENIED),
    "list of processes": ("import os; print(os.listdir('/proc'))", "error", DENIED),
    "own descriptors": ("import os; print(os.listdir('/proc/self/fd'))", "error", DENIED),
    "requests of others": ("import os\nfor fd in range(4, 64): print(os.read(fd, 100))", "error", "Bad file descriptor"),
    "standard input": ("print(input())", "error", "EOFError"),
    "name of the machine": ("import os; print(os.uname())", "error", FORBIDDEN),
    "memory of another": (CALL + "function('process_vm_readv', {parent}, None, 0, None, 0, 0)", "error", FORBIDDEN),
    "trace": (CALL + "function('ptrace', 16, {parent}, None, None)", "error", FORBIDDEN),
    # files of others
    "write outside": ("open('{outside}/MARK', 'w')", "error", DENIED),
    "overwrite": ("open('{outside}/secret.txt', 'w')", "error", DENIED),
    "remove": ("import os; os.remove('{outside}/secret.txt')", "error", DENIED),
    "rename": ("import os; os.rename('{outside}/secret.txt', '{folder}/MARK')", "error", "[Errno"),
    "move out": ("import os\nopen('x', 'w').close(); os.rename('x', '{outside}/MARK')", "error", "[Errno"),
    "truncate": ("import os; os.truncate('{outside}/secret.txt', 0)", "error", FORBIDDEN),
    "empty by reading": (
        "import os, string; os.open(string.__file__, os.O_RDONLY | os.O_TRUNC)", "error", FORBIDDEN,
    ),
    "change the library": ("import string; open(string.__file__, 'a')", "error", DENIED),
    "chmod": ("import os; os.chmod('{outside}/secret.txt', 0o777)", "error", FORBIDDEN),
    "chmod by descriptor": ("import os; os.chmod(os.open('x', os.O_CREAT), 0o4777)", "error", FORBIDDEN),
    "chown": ("import os; os.chown('{outside}/secret.txt', 1, 1)", "error", FORBIDDEN),
    "times": ("import os; os.utime('{outside}/secret.txt', (0, 0))", "error", FORBIDDEN),
    "attributes": ("import os; os.setxattr('{outside}/secret.txt', 'user.mark', b'1')", "error", FORBIDDEN),
    "set-user-id file": ("import os; os.open('MARK', os.O_CREAT | os.O_WRONLY, 0o4755)", "error", FORBIDDEN),
    "symbolic link": ("import os; os.symlink('{outside}/secret.txt', 'MARK')", "error", FORBIDDEN),
    "hard link": ("import os; os.link('{outside}/secret.txt', 'MARK')", "error", FORBIDDEN),
    "pipe with a name": ("import os; os.mkfifo('MARK')", "error", FORBIDDEN),
    "device": ("import os; os.mknod('MARK', 0o60666, 1)", "error", FORBIDDEN),
    "nested folders": ("import os\nwhile True: os.mkdir('MARK'); os.chdir('MARK')", "error", FORBIDDEN),
    "mount": (CALL + "function('mount', b'none', b'{folder}', b'tmpfs', 0, None)", "error", FORBIDDEN),
    "new root": ("import os; os.chroot('{folder}')", "error", FORBIDDEN),
    "name space": (CALL + "function('unshare', 0x10000000)", "error", FORBIDDEN),
    # signals and settings
    "kill the asking process": ("import os; os.kill({parent}, 15)", "error", FORBIDDEN),
    "kill the server": ("import os; os.kill(os.getppid(), 9)", "error", FORBIDDEN),
    "kill everybody": ("import os; os.kill(-1, 9)", "error", FORBIDDEN),
    "signals by a descriptor": ("import os, fcntl; fcntl.fcntl(1, fcntl.F_SETOWN, {parent})", "error", FORBIDDEN),
    "more rights": ("import os; os.setuid(0)", "error", FORBIDDEN),
    "more memory": ("import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))", "error", "not allowed to raise maximum limit"),
    "limits of another": ("import resource as r; r.prlimit({parent}, r.RLIMIT_NOFILE)", "error", FORBIDDEN),
    "clock": ("import time; time.clock_settime(time.CLOCK_REALTIME, 0)", "error", FORBIDDEN),
    "priority": ("import os; os.setpriority(os.PRIO_PROCESS, {parent}, 19)", "error", FORBIDDEN),
    "kernel rings": (CALL + "call(425, 8, ctypes.create_string_buffer(120))", "error", FORBIDDEN),
    "kernel programs": (CALL + "function('bpf', 0, None, 0) if hasattr(libc, 'bpf') else call(280)", "error", "[Errno"),
    "call of the future": (CALL + "call(1000)", "error", FORBIDDEN),
    # floods
    "endless loop": ("while True: pass", "timeout", "longer than 0.2 seconds"),
    "sleep": ("import time; time.sleep(60)", "timeout", "longer than 0.2 seconds"),
    "deaf sleep": (
        "import os, signal, time\nfor n in range(1, 32):\n if n not in (9, 19): signal.signal(n, signal.SIG_IGN)\n"
        "os.close(1); os.close(2); os.close(3)\ntime.sleep(60)", "timeout", "longer than 0.2 seconds",
    ),
    "memory": ("x = bytearray(1 << 40)", "memory", "more than 64 MiB"),
    "memory by halves": ("x = [0]\nwhile True: x += x", "memory", "more than 64 MiB"),
    "big number": ("x = 1 << (1 << 40)", "memory", "more than 64 MiB"),
    "output": ("while True: print('x' * 1000)", "output", "more than 10,000 bytes"),
    "one long line": ("print('x' * (1 << 20))", "output", "more than 10,000 bytes"),
    "big file": ("open('x', 'wb').write(bytes(1 << 25))", "error", "File too large"),
    "many files": ("for n in range(10 ** 9): open(str(n), 'w').close()", "files", "more than 100 files"),
    "many big files": ("for n in range(99): open(str(n), 'wb').write(bytes(4 << 20))", "files", "64 MiB"),
    "descriptors": ("x = [open('/dev/null') for n in range(99)]", "error", "Too many open files"),
    "deep calls": ("import sys; sys.setrecursionlimit(10 ** 9)\ndef f(): return f()\nf()", "not ok", ""),
    "deep source": ("(" * 10 ** 5 + ")" * 10 ** 5, "error", "SyntaxError"),
    "crash": ("import ctypes; ctypes.string_at(0)", "killed", "SIGSEGV"),
    # verdicts
    "early end": ("import os; print('passed', flush=True); os._exit(0)\nassert False", "error", "before its last line"),
    "polite early end": ("import sys; sys.exit(0)\nassert False", "exit", "before its last line"),
    "printed verdict": ("print('{{\"status\": \"ok\"}}')\nassert False, 'ok'", "error", "AssertionError: ok"),
    "written verdict": ("import os\nos.write(3, b'ok\\0'); os._exit(0)", "error", "before its last line"),
    "verdict at the end": ("import atexit, os; atexit.register(os._exit, 0); assert False", "error", "before its last line"),
}  # fmt: skip
