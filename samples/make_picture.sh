#!/bin/sh
# Make before_after.png, the picture of the README: a crop of the sample, decoded and restored.
# The whole clip is restored, since a frame borrows from the key frames around it.
set -eu
cd "$(dirname "$0")"
compare=$(mktemp --suffix=.mkv)
carfilter plaza.mp4 "$compare" --compare -c:v ffv1 -y
crop="crop=112:84:236:108"
ffmpeg -v error -y -ss 7.5 -i "$compare" -frames:v 1 -filter_complex \
  "[0:v]split[a][b];[a]crop=384:288:0:0,$crop[l];[b]crop=384:288:384:0,$crop[r];
   [l][r]hstack,scale=iw*4:ih*4:flags=neighbor" before_after.png
rm -f "$compare"
