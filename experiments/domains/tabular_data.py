"""Measurements of breast tumours, benign or malignant, as a table: the Wisconsin data of scikit-learn (CC BY 4.0).

Usage: python experiments/domains/tabular_data.py FOLDER
"""

import sys
from pathlib import Path

from sklearn.datasets import load_breast_cancer

if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    data = load_breast_cancer(as_frame=True)
    table = data.data.assign(diagnosis=data.target.map(dict(enumerate(data.target_names))))
    table.to_csv(place / "tumours.csv", index=False)
    print(f"{len(table)} rows, {table['diagnosis'].value_counts().to_dict()}")
