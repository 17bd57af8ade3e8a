"""Thin client: reads a store through a router, with nothing but HTTP.

Read path: **client** → wire → router → worker → storage.

What is asked and how answers are understood is decided in `requests.py`; the two clients here carry it out.
"""
