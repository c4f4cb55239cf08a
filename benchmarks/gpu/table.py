"""Print the records of a run as a short table: python benchmarks/gpu/table.py RECORDS.json"""

import json
import sys
from pathlib import Path

path = Path(sys.argv[1])
records = json.loads(path.read_text()) if path.exists() else []
print("\n| row | result |\n|---|---|")
for record in records:
    if "ratio" in record:
        memory = f"{record['ours_mib']:.0f} and {record['peer_mib']:.0f} MiB"
        text = f"{record['ratio']:.2f} ×, {record['ours_median']:.3g} s, {memory}, apart {record['difference']:.1e}"
    else:
        text = f"{record['value']:.4g} {record['unit']}"
    print(f"| {record['row']} | {text} |")
if records:
    print(f"\n{records[0]['gpu']}, torch {records[0]['torch']}, commit {records[0]['commit']}")
