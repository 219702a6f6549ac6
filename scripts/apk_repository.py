"""Signed Alpine v2 packages and repositories, remade from the database of an installed root.

A package is three gzip members in a row: a tar with the signature over the bytes of the second member, a tar
with .PKGINFO and the scripts, a tar with the files. The first two have no end-of-archive blocks. Contents,
owners, modes, dependencies and scripts come from the root and its database, so that the packages behave as the
originals do; the digests are new ones. Equal for equal roots and keys.
"""
import base64
import gzip
import hashlib
import io
import os
import stat
import subprocess
import tarfile

KEY_NAME = "mirror@test.invalid-00000001.rsa.pub"
DB = "lib/apk/db"


def gz(data):
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9, mtime=0) as file:
        file.write(data)
    return out.getvalue()


class Tar:
    def __init__(self):
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode="w:", format=tarfile.PAX_FORMAT)

    def add(self, name, data=None, link=None, mode=0o644, owner=(0, 0), names=("root", "root"), mtime=0, sha1=None):
        """A file with data, a symlink with link, else a folder."""
        info = tarfile.TarInfo(name)
        info.mode, info.mtime = mode, mtime
        info.uid, info.gid = owner
        # apk goes by these names before the numbers.
        info.uname, info.gname = names
        if sha1:
            info.pax_headers = {"APK-TOOLS.checksum.SHA1": sha1}
        if link is not None:
            info.type, info.linkname = tarfile.SYMTYPE, link
        elif data is None:
            info.type = tarfile.DIRTYPE
        else:
            info.size = len(data)
        self.tar.addfile(info, io.BytesIO(data) if data is not None else None)

    def whole(self):
        self.tar.close()
        return self.buffer.getvalue()

    def cut(self):
        """Without the end-of-archive blocks."""
        data = self.whole()
        while data.endswith(bytes(512)):
            data = data[:-512]
        return data


def signed(key, data, mtime):
    """The data with a signature before it."""
    done = subprocess.run(["openssl", "dgst", "-sha1", "-sign", key], input=data, capture_output=True, check=True)
    tar = Tar()
    tar.add(f".SIGN.RSA.{KEY_NAME}", done.stdout, mtime=mtime)
    return gz(tar.cut()) + data


def sha1_of(path):
    """What the database has of a file: of its content, or of what a link says. None for what is not there."""
    if os.path.islink(path):
        return hashlib.sha1(os.readlink(path).encode()).digest()
    if os.path.isfile(path):
        with open(path, "rb") as file:
            return hashlib.sha1(file.read()).digest()
    return None


def q1(digest):
    return "Q1" + base64.b64encode(digest).decode()


class Root:
    """An installed root: its packages as the database has them, with their scripts and triggers."""

    def __init__(self, path):
        self.path = path
        with open(os.path.join(path, DB, "installed"), encoding="utf-8") as file:
            self.packages = [self.record(text) for text in file.read().split("\n\n") if text.strip()]
        self.scripts = {}
        with tarfile.open(os.path.join(path, DB, "scripts.tar.gz")) as tar:
            for info in tar:
                # NAME-VERSION.X1<hex of the package's digest>.<kind of script>
                package, kind = info.name.rsplit(".", 1)
                self.scripts.setdefault(package.rsplit(".X1", 1)[1], {})[kind] = tar.extractfile(info).read()
        with open(os.path.join(path, DB, "triggers"), encoding="utf-8") as file:
            self.triggers = dict(line.rstrip("\n").split(" ", 1) for line in file)
        self.users = self.ids("etc/passwd")
        self.groups = self.ids("etc/group")

    @staticmethod
    def record(text):
        """Fields by letter; under `entries` folders and files as [path, is_folder, owner, mode, digest]."""
        fields, entries, folder = {}, [], ""
        for line in text.strip("\n").split("\n"):
            letter, value = line[0], line[2:]
            if letter == "F":
                folder = value
                entries.append([value, True, (0, 0), 0o755, None])
            elif letter == "R":
                entries.append([os.path.join(folder, value), False, (0, 0), None, None])
            elif letter in "Ma":
                user, group, mode = value.split(":")[:3]
                entries[-1][2:4] = (int(user), int(group)), int(mode, 8)
            elif letter == "Z":
                entries[-1][4] = value
            else:
                fields[letter] = value
        fields["entries"] = entries
        return fields

    def ids(self, file):
        with open(os.path.join(self.path, file), encoding="utf-8") as lines:
            columns = [line.split(":") for line in lines]
        return {int(column[2]): column[0] for column in columns if len(column) > 2}

    def scripts_of(self, package):
        return self.scripts.get(base64.b64decode(package["C"][2:]).hex(), {})

    def add_to(self, tar, package, prefix=""):
        """The files of a package. Folders that are in several packages are in each of their archives."""
        mtime = int(package["t"])
        for name, is_folder, owner, mode, _ in package["entries"]:
            if not name:
                continue
            path = os.path.join(self.path, name)
            about = dict(owner=owner, mtime=mtime, names=(self.users.get(owner[0], ""), self.groups.get(owner[1], "")))
            if is_folder:
                tar.add(prefix + name, mode=mode, **about)
            elif os.path.islink(path):
                tar.add(prefix + name, link=os.readlink(path), mode=0o777, sha1=sha1_of(path).hex(), **about)
            else:
                assert stat.S_ISREG(os.lstat(path).st_mode), path
                with open(path, "rb") as file:
                    content = file.read()
                tar.add(prefix + name, content, mode=mode or 0o644, sha1=sha1_of(path).hex(), **about)

    def package_file(self, package, key):
        """The bytes of a signed package, and its identity in an index."""
        mtime = int(package["t"])
        files = Tar()
        self.add_to(files, package)
        files = gz(files.whole())
        lines = ["# remade from an installed database", f"pkgname = {package['P']}", f"pkgver = {package['V']}"]
        for letter, name in zip("TUtIAocmqkL", ("pkgdesc", "url", "builddate", "size", "arch", "origin", "commit",
                                                "maintainer", "replaces_priority", "provider_priority", "license")):
            if letter in package:
                lines.append(f"{name} = {package[letter]}")
        for letter, name in zip("Drp", ("depend", "replaces", "provides")):
            lines += [f"{name} = {value}" for value in package.get(letter, "").split()]
        if "i" in package:
            lines.append(f"install_if = {package['i']}")
        if package["C"] in self.triggers:
            lines.append(f"triggers = {self.triggers[package['C']]}")
        lines.append(f"datahash = {hashlib.sha256(files).hexdigest()}")
        control = Tar()
        control.add(".PKGINFO", ("\n".join(lines) + "\n").encode(), mtime=mtime)
        for kind, script in sorted(self.scripts_of(package).items()):
            control.add("." + kind, script, mode=0o755, mtime=mtime)
        control = gz(control.cut())
        return signed(key, control, mtime) + files, q1(hashlib.sha1(control).digest())

    def repository(self, packages, folder, key, description):
        """Writes the packages and a signed index of them; identity and size by name."""
        os.makedirs(folder, exist_ok=True)
        identities, entries = {}, []
        for package in packages:
            data, identity = self.package_file(package, key)
            identities[package["P"]] = identity, len(data)
            with open(os.path.join(folder, f"{package['P']}-{package['V']}.apk"), "wb") as file:
                file.write(data)
            fields = {**package, "C": identity, "S": len(data)}
            entries.append("".join(f"{letter}:{fields[letter]}\n" for letter in "CPVASITULomtckDpi" if letter in fields))
        mtime = max(int(package["t"]) for package in packages)
        index = Tar()
        index.add("DESCRIPTION", description.encode(), mtime=mtime)
        index.add("APKINDEX", "".join(entry + "\n" for entry in entries).encode(), mtime=mtime)
        with open(os.path.join(folder, "APKINDEX.tar.gz"), "wb") as file:
            file.write(signed(key, gz(index.whole()), mtime))
        return identities

    def minirootfs(self, packages, identities, world):
        """A tar.gz of the root with these packages only, as the scripts of the official one leave it."""
        tar, seen = Tar(), {}
        newest = max(int(package["t"]) for package in packages)
        tar.add("./", mode=0o755, mtime=newest)
        for package in packages:
            one = Tar()
            self.add_to(one, package, "./")
            with tarfile.open(fileobj=io.BytesIO(one.whole())) as read:
                for info in read:
                    # The first package that has a folder decides about it.
                    seen.setdefault(info.name, (info, read.extractfile(info).read() if info.isfile() else None))
        for name in ("bin", "sbin", "usr/bin", "usr/sbin"):
            for link in os.scandir(os.path.join(self.path, name)):
                if link.is_symlink() and os.readlink(link) == "/bin/busybox" and f"./{name}/{link.name}" not in seen:
                    info = tarfile.TarInfo(f"./{name}/{link.name}")
                    info.type, info.linkname, info.mode, info.mtime = tarfile.SYMTYPE, "/bin/busybox", 0o777, newest
                    seen[info.name] = info, None
        seen["./etc/shadow"][0].gid, seen["./etc/shadow"][0].gname = 42, "shadow"
        database = {"etc/apk/world": world, "etc/apk/arch": packages[0]["A"] + "\n", f"{DB}/lock": ""}
        database[f"{DB}/installed"] = "".join(self.installed(package, identities) for package in packages)
        database[f"{DB}/triggers"] = "".join(
            f"{identities[package['P']][0]} {self.triggers[package['C']]}\n" for package in packages if package["C"] in self.triggers)
        with open(os.path.join(self.path, "etc/apk/repositories"), encoding="utf-8") as file:
            database["etc/apk/repositories"] = file.read()
        scripts = Tar()
        for package in packages:
            identity = base64.b64decode(identities[package["P"]][0][2:]).hex()
            for kind, script in self.scripts_of(package).items():
                scripts.add(f"{package['P']}-{package['V']}.X1{identity}.{kind}", script, mode=0o755, mtime=int(package["t"]))
        database[f"{DB}/scripts.tar.gz"] = gz(scripts.whole())
        for name, content in database.items():
            for above in ("lib/apk", DB):
                if name.startswith(above) and f"./{above}" not in seen:
                    info = tarfile.TarInfo(f"./{above}")
                    info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, newest
                    seen[info.name] = info, None
            info = tarfile.TarInfo(f"./{name}")
            info.mode, info.mtime = 0o600 if name.endswith("lock") else 0o644, newest
            content = content if isinstance(content, bytes) else content.encode()
            info.size = len(content)
            seen[info.name] = info, content
        for _, (info, content) in sorted(seen.items()):
            info.pax_headers = {}
            tar.tar.addfile(info, io.BytesIO(content) if content is not None else None)
        return gz(tar.whole())

    def installed(self, package, identities):
        """The record of a package in the database, with its new identity and size, and the digests of the files there are."""
        identity, size = identities[package["P"]]
        fields = {**package, "C": identity, "S": size}
        lines = [f"{letter}:{fields[letter]}" for letter in "CPVASITULomtckDpirq" if letter in fields]
        for name, is_folder, owner, mode, digest in package["entries"]:
            if is_folder:
                lines.append(f"F:{name}")
                if (owner, mode) != ((0, 0), 0o755):
                    lines.append(f"M:{owner[0]}:{owner[1]}:{mode:o}")
            else:
                lines.append(f"R:{os.path.basename(name)}")
                if mode is not None:
                    lines.append(f"a:{owner[0]}:{owner[1]}:{mode:o}")
                if digest is not None:
                    lines.append(f"Z:{q1(sha1_of(os.path.join(self.path, name)))}")
        return "\n".join(lines) + "\n\n"
