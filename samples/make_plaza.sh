#!/bin/sh
# Make plaza.mp4 from OpenCV's vtest.avi (Debian package opencv-doc) the way a camera would code it:
# no B-frames, a key frame every two seconds, high CRF under a bit rate cap, mono audio.
# The microphone's track is synthetic: soft noise with a beep each second, to check lip sync by.
set -eu
vtest=${1:?usage: samples/make_plaza.sh VTEST.AVI OUT.mp4}
out=${2:?usage: samples/make_plaza.sh VTEST.AVI OUT.mp4}
ffmpeg -v error -y -ss 53 -t 9 -i "$vtest" \
  -f lavfi -i "anoisesrc=color=brown:amplitude=0.03:sample_rate=16000:seed=1:duration=9" \
  -f lavfi -i "sine=frequency=880:beep_factor=1:sample_rate=16000:duration=9" \
  -filter_complex "[0:v]scale=384:288:flags=bicubic,format=yuv420p[v];
    [2:a]volume='if(lt(mod(t,1),0.05),0.3,0)':eval=frame[beep];[1:a][beep]amix=2:duration=first[a]" \
  -map "[v]" -map "[a]" \
  -c:v libx264 -preset medium -crf 40 -maxrate 500k -bufsize 500k -g 20 -bf 0 -threads 1 \
  -c:a aac -b:a 32k -metadata title="Plaza" "$out"
