"""Temperatures of Seattle, hour by hour for a year, as a table: data of NOAA (public domain), from vega_datasets.

Usage: python experiments/domains/series_data.py FOLDER
"""

import sys
from pathlib import Path

from vega_datasets import local_data

if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    table = local_data.seattle_temps().rename(columns={"date": "hour", "temp": "fahrenheit"})
    table.to_csv(place / "seattle.csv", index=False)
    print(f"{len(table)} hours from {table['hour'].min()} to {table['hour'].max()}")
