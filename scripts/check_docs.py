#!/usr/bin/env python3
"""Fails for a public type or function without a doc comment.

Reads the XML that `make docs` has Doxygen write. What speaks for itself needs
no comment: data members, enumerators, getters of one line, further overloads of
a function that has one, and what moves, copies or destroys an object."""
import pathlib
import re
import sys
from xml.etree import ElementTree

XML = pathlib.Path("build/docs/xml")
TYPES = ("class", "struct", "union", "concept")
GETTER = re.compile(r"\{\s*return \*?[\w.]+(\(\))?;\s*\}\s*$")


def text(element, tag):
    found = element.find(tag)
    return "" if found is None else "".join(found.itertext()).strip()


def has_comment(entity):
    return bool(text(entity, "briefdescription") or text(entity, "detaileddescription"))


def is_hidden(member):
    return member.get("prot") == "private" or member.get("kind") == "friend"


def is_special(member, class_name):
    """Destroys, copies or moves, or has no body of its own."""
    if text(member, "argsstring").endswith(("=delete", "=default")):
        return True
    name = text(member, "name")
    if name not in (class_name, f"~{class_name}", "operator="):
        return False
    types = [text(parameter, "type") for parameter in member.findall("param")]
    itself = re.compile(rf"(const )?{class_name} ?&&?$")
    return name[0] == "~" or len(types) == 1 and bool(itself.match(types[0]))


def is_getter(member):
    if member.get("const") != "yes" or member.find("param") is not None:
        return False
    place = member.find("location")
    if not place.get("bodyfile"):
        return False
    first, last = int(place.get("bodystart")), int(place.get("bodyend"))
    lines = pathlib.Path("include", place.get("bodyfile")).read_text().splitlines()
    return bool(GETTER.search("\n".join(lines[first - 1 : last])))


def needs_comment(member, compound):
    kind, is_class = member.get("kind"), compound.get("kind") in TYPES
    if is_hidden(member) or is_class and kind == "variable":
        return False
    class_name = re.sub(r"<.*", "", text(compound, "compoundname")).split("::")[-1]
    return not (is_class and (is_special(member, class_name) or is_getter(member)))


def missing_comments(compound):
    """How many entities of `compound` need a comment, and which lack it."""
    needed, missing = 0, []
    if compound.get("kind") in TYPES:
        needed += 1
        if not has_comment(compound):
            missing.append((compound, text(compound, "compoundname")))
    members = [member for member in compound.iter("memberdef") if needs_comment(member, compound)]
    documented = {text(member, "name") for member in members if has_comment(member)}
    for member in members:
        name = text(member, "name")
        if name not in documented:
            missing.append((member, text(member, "qualifiedname") or name))
    return needed + len(members), missing


def main():
    count, messages = 0, set()
    for path in XML.glob("*.xml"):
        for compound in ElementTree.parse(path).iter("compounddef"):
            if compound.get("prot") == "private":
                continue
            needed, missing = missing_comments(compound)
            count += needed
            for entity, name in missing:
                place = entity.find("location")
                messages.add(f"include/{place.get('file')}:{place.get('line')}: {name} has no doc comment")
    if not count:
        sys.exit(f"check_docs: nothing found in {XML}: run `make docs`")
    if messages:
        sys.exit("\n".join(sorted(messages)))
    print(f"{count} public types and functions have a doc comment")


main()
