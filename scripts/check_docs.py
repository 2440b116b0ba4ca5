#!/usr/bin/env python3
"""Each public entity has a doc comment: also those that Doxygen does not warn
of (enumerators, macros, functions outside of a documented namespace)."""
import pathlib
import subprocess
import sys
from xml.etree import ElementTree

FOLDER = pathlib.Path("build/docs/check")
OPTIONS = f"""
EXTRACT_ALL = YES
GENERATE_HTML = NO
GENERATE_XML = YES
XML_PROGRAMLISTING = NO
OUTPUT_DIRECTORY = {FOLDER}
"""


def has_comment(entity):
    texts = (entity.find("briefdescription"), entity.find("detaileddescription"))
    return any(text is not None and "".join(text.itertext()).strip() for text in texts)


def is_plain(member):
    """A special member function, or not one that users reach."""
    return (
        member.get("prot") == "private"
        or member.get("kind") == "friend"
        or member.findtext("name").startswith("~")
        or (member.findtext("argsstring") or "").endswith(("=delete", "=default"))
    )


def entities(compound):
    if compound.get("kind") in ("class", "struct", "union", "concept"):
        yield compound, compound.findtext("compoundname")
    for member in compound.iter("memberdef"):
        if not is_plain(member):
            name = member.findtext("qualifiedname") or member.findtext("name")
            yield member, name
            for value in member.iter("enumvalue"):
                yield value, f"{name}::{value.findtext('name')}"


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    options = pathlib.Path("docs/Doxyfile").read_text() + OPTIONS
    subprocess.run(["doxygen", "-"], input=options, text=True, check=True)
    missing, count = set(), 0
    for path in (FOLDER / "xml").glob("*.xml"):
        for compound in ElementTree.parse(path).iter("compounddef"):
            if compound.get("prot") == "private":
                continue
            for entity, name in entities(compound):
                count += 1
                if not has_comment(entity):
                    missing.add(name)
    if missing or not count:
        sys.exit("no doc comment: " + (", ".join(sorted(missing)) or "nothing was found"))
    print(f"{count} public entities have a doc comment")


main()
