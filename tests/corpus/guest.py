"""What the attempts of bypass.toml are told with; runs in the guest, which is its own enemy here: nothing is verified.

Reads one attempt a line, as JSON, runs its Python and answers with one line of JSON: what it has printed. How a connection
ended is said in a word: `reset`, `closed`, `refused by TLS`, `unreachable`, `silence`.
"""

import base64, contextlib, io, json, os, select, signal, socket, ssl, struct, subprocess, sys, time

GATEWAY, GUEST = "192.168.100.1", "192.168.100.2"
GATEWAY6, GUEST6 = "fd6d:6174:6368::1", "fd6d:6174:6368::2"
GOOD, CDN, EVIL = "93.184.216.34", "93.184.216.80", "93.184.216.66"
GOOD6, EVIL6 = "2606:2800:220:1::34", "2606:2800:220:1::66"
PRIVATE, METADATA, HOST = "10.0.0.5", "169.254.169.254", "93.184.217.2"

# How long an answer may take that should come, and how long is waited for one that should not.
PATIENCE, SILENCE = 15, 1.5
# What the guest has in place of the secret.
TOKEN = os.environ.get("TOKEN", "")
# For what one attempt leaves to the next.
kept = {}


def word(error):
    """How it ended."""
    if isinstance(error, ssl.SSLError):
        return "refused by TLS"
    if isinstance(error, (ConnectionError, BrokenPipeError)):
        return "reset"
    if isinstance(error, TimeoutError):
        return "silence"
    if isinstance(error, socket.gaierror):
        return "no such name"
    if isinstance(error, OSError) and error.errno in (13, 101, 113):
        return "unreachable"
    return f"{type(error).__name__}: {error}"


def labels(name):
    parts = name if isinstance(name, list) else [part.encode() for part in name.rstrip(".").split(".")]
    return b"".join(bytes([len(part)]) + part for part in parts) + b"\0"


def query(name, kind=1, klass=1, flags=0x0100, more=b"", counts=(1, 0, 0, 0)):
    """A DNS message."""
    question = labels(name) + struct.pack(">HH", kind, klass)
    return struct.pack(">HHHHHH", 0x1234, flags, *counts) + question + more


CODES = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"]


def skip(message, at):
    while message[at]:
        if message[at] >= 192:
            return at + 2
        at += message[at] + 1
    return at + 1


def read(message):
    """The code of an answer, and the addresses in it."""
    at, said = 12, [CODES[message[3] & 15]]
    for _ in range(struct.unpack(">H", message[4:6])[0]):
        at = skip(message, at) + 4
    for _ in range(struct.unpack(">H", message[6:8])[0]):
        at = skip(message, at)
        kind, length = struct.unpack(">HxxxxxxH", message[at : at + 10])
        data, at = message[at + 10 : at + 10 + length], at + 10 + length
        if kind in (1, 28):
            said.append(socket.inet_ntop(socket.AF_INET if kind == 1 else socket.AF_INET6, data))
    return " ".join(said)


def dns(message, server=GATEWAY, tcp=False, patience=PATIENCE):
    """Ask; a message, or a name and what `query` takes."""
    message = message if isinstance(message, bytes) else query(message)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as s:
        s.settimeout(patience)
        try:
            s.connect((server, 53))
            s.sendall(struct.pack(">H", len(message)) + message if tcp else message)
            answer = s.recv(65535)
            return read(answer[2:] if tcp else answer)
        except OSError as error:
            return word(error)


def lured(name, *addresses, port=80):
    """Ask for a name that should lead nowhere, and go where it leads all the same."""
    for kind in (1, 28):
        print("told", *(dns(query(name, kind)).split()[1:] or ["no address"]))
    for address in addresses:
        print(address, tcp(address, port))


def tcp(address, port, send=b"GET / HTTP/1.0\r\n\r\n", patience=PATIENCE):
    """Connect, send, and what comes back, or how it ended."""
    try:
        with socket.create_connection((address, port), patience) as s:
            return exchange(s, send)
    except OSError as error:
        return word(error)


def exchange(s, *send):
    """Send, and read until the end, or until nothing more comes."""
    said = b""
    try:
        for part in send:
            s.sendall(part)
        s.settimeout(PATIENCE)
        while part := s.recv(65536):
            said += part
            s.settimeout(SILENCE)
    except OSError as error:
        return said.decode("latin-1") or word(error)
    return said.decode("latin-1") or "closed"


def tls(name, address=None, port=443, sni="", alpn=("http/1.1",), session=None, context=None):
    """A TLS connection to the address of a name; `sni` says another one, and None says none."""
    if context is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if alpn:
            context.set_alpn_protocols(list(alpn))
    s = socket.create_connection((address or name, port), PATIENCE)
    return context.wrap_socket(s, server_hostname=name if sni == "" else sni, session=session)


def https(request, name="api.good.test", **how):
    """One request as it is given, in TLS."""
    try:
        with tls(name, **how) as s:
            return exchange(s, request if isinstance(request, bytes) else request.encode("latin-1"))
    except OSError as error:
        return word(error)


def get(host, path="/", more=""):
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}Connection: close\r\n\r\n"


def hello(names, more=b"", fragment=None):
    """A TLS 1.2 hello with these entries in its SNI, as (type, name), and more extensions; as one record or many."""
    entries = b"".join(struct.pack(">BH", kind, len(name)) + name for kind, name in names)
    sni = struct.pack(">HHH", 0, len(entries) + 2, len(entries)) + entries if names else b""
    groups = bytes.fromhex("000a00040002001d") + bytes.fromhex("000d000600040403 0804") + bytes.fromhex("000b00020100")
    extensions = sni + groups + more
    body = b"\3\3" + os.urandom(32) + b"\0" + bytes.fromhex("0004c02bc02f0100") + struct.pack(">H", len(extensions))
    body += extensions
    message = b"\1" + struct.pack(">I", len(body))[1:] + body
    size = fragment or len(message)
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\3\1" + struct.pack(">H", len(part)) + part for part in parts)


def greet(name, record, port=443, address=None):
    """What a hello is answered with."""
    said = tcp(address or name, port, record)
    kinds = {"\x16": "a handshake", "\x15": "refused by TLS"}
    return kinds.get(said[:1], said)


def h2(headers, name="cdn.good.test", port=443, plain=False, preface=b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", sni=""):
    """One HTTP/2 request of exactly these fields; the status, if one came."""
    block = b"".join(b"\0" + bytes([len(k)]) + k.encode() + bytes([len(v)]) + v.encode() for k, v in headers)
    frame = lambda kind, flags, stream, data: struct.pack(">I", len(data))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + data
    send = preface + frame(4, 0, 0, b"") + frame(1, 5, 1, block)
    try:
        s = socket.create_connection((name, port), PATIENCE) if plain else tls(name, port=port, alpn=("h2",), sni=sni)
        with s:
            return statuses(exchange(s, send).encode("latin-1"))
    except OSError as error:
        return word(error)


def statuses(said):
    """The status of each response among these frames (RFC 7541, appendix A), and RST_STREAM and GOAWAY. It is the first field."""
    found = []
    while len(said) >= 9:
        length, kind = int.from_bytes(said[:3], "big"), said[3]
        data, said = said[9 : 9 + length], said[9 + length :]
        if kind == 1:
            known = {0x88: "200", 0x89: "204", 0x8A: "206", 0x8B: "304", 0x8C: "400", 0x8D: "404", 0x8E: "500"}
            field = data.lstrip(bytes(range(0x20, 0x40)))[:1]
            found.append("status " + known.get(field[0] if field else 0, "other"))
        elif kind in (3, 7):
            found.append("refused")
    return " ".join(found) or "closed"


def udp(address, port, data=b"tunnelled"):
    """Send a datagram, and what comes back."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(SILENCE)
        try:
            s.connect((address, port))
            s.send(data)
            return s.recv(65535).decode("latin-1")
        except OSError as error:
            return word(error)


def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) // 2 * 2])) + (data[-1] << 8 if len(data) % 2 else 0)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(destination, protocol, payload, source=GUEST, fragment=0, options=b"", ttl=64):
    """An IPv4 packet."""
    words = 5 + len(options) // 4
    head = struct.pack(">BBHHHBBH4s4s", 0x40 | words, 0, words * 4 + len(payload), 0x4242, fragment, ttl, protocol, 0, socket.inet_aton(source), socket.inet_aton(destination)) + options
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def ipv6(destination, header, payload, source=GUEST6):
    """An IPv6 packet whose payload begins with this header."""
    return struct.pack(">IHBB", 0x60000000, len(payload), header, 64) + socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination) + payload


def datagram(port, data=b"tunnelled", source_port=4000):
    """A UDP datagram without a checksum, which only IPv4 has."""
    return struct.pack(">HHHH", source_port, port, 8 + len(data), 0) + data


def segment(source, destination, port, flags, source_port=4001):
    """A TCP segment."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    head = struct.pack(">HHIIBBHHH", source_port, port, 1000, 0, 0x50, flags, 1024, 0, 0)
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, destination)
    pseudo = ends + struct.pack(">II" if family == socket.AF_INET6 else ">HH", *((20, 6) if family == socket.AF_INET6 else (6, 20)))
    return head[:16] + struct.pack(">H", checksum(pseudo + head)) + head[18:]


def hardware(what):
    """Of eth0: its own hardware address, or, learnt by asking, its gateway's."""
    if what == "own":
        return bytes.fromhex(open("/sys/class/net/eth0/address").read().strip().replace(":", ""))
    udp(GATEWAY, 53, query("evil.test"))
    line = next(line for line in open("/proc/net/arp") if line.startswith(GATEWAY + " "))
    return bytes.fromhex(line.split()[3].replace(":", ""))


def frame(kind, payload, to=None, source=None):
    """Put an Ethernet frame on the wire as it is. Whether it comes back is heard at the attempt's end."""
    if "link" not in kept:
        kept["link"] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        kept["link"].bind(("eth0", 0))
    to, source = to or hardware("gateway"), source or hardware("own")
    kept["link"].send(to + source + (kind if isinstance(kind, bytes) else struct.pack(">H", kind)) + payload)
    return "sent"


def heard():
    """What came back of the frames that were sent."""
    link, until = kept.pop("link"), time.monotonic() + SILENCE
    with link:
        while (left := until - time.monotonic()) > 0:
            if select.select([link], [], [], left)[0]:
                said, sender = link.recvfrom(65535)
                if sender[2] != socket.PACKET_OUTGOING and b"tunnelled" in said and not is_refusal(said):
                    return "an echo"
    return "silence"


def is_refusal(frame):
    """Whether this is an ICMP error, which quotes what was sent."""
    kind, packet = frame[12:14], frame[14:]
    if kind == b"\x08\x00":
        return packet[9] == 1 and packet[(packet[0] & 15) * 4] in (3, 11, 12)
    return kind == b"\x86\xdd" and packet[6] == 58 and packet[40] < 128


def syn(flags, source=GUEST, destination=EVIL, port=443):
    """A bare TCP segment on the wire."""
    return frame(0x0800, ipv4(destination, 6, segment(source, destination, port, flags), source))


def sh(command):
    """What a shell command says, and how it ends."""
    ended = subprocess.run(command, shell=True, capture_output=True, timeout=60)
    return (ended.stdout + ended.stderr).decode(errors="replace").strip() + f" (exit {ended.returncode})"


def expired(*_):
    raise TimeoutError("the attempt took too long")


signal.signal(signal.SIGALRM, expired)
for line in sys.stdin:
    attempt = json.loads(line)
    said = io.StringIO()
    signal.alarm(100)
    with contextlib.redirect_stdout(said):
        try:
            exec(attempt["run"], dict(globals()))
            if "link" in kept:
                print(heard())
        except Exception as error:
            print(word(error))
    signal.alarm(0)
    print(json.dumps({"said": said.getvalue(), "id": attempt["id"]}), flush=True)
