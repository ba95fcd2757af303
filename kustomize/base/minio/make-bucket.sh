#!/bin/sh
# Makes the bucket, and users for the brokers that may use this bucket and nothing else. May be repeated. The image has a shell
# and mc, but neither sed nor grep.
set -eu

until mc alias set store "http://$MINIO_ENDPOINT" "$MINIO_ROOT_USER" "$MINIO_ROOT_PASSWORD"; do
    sleep 2
done
mc mb --ignore-existing "store/$MINIO_BUCKET_NAME"

cat >/tmp/policy.json <<POLICY
{
  "Version": "2012-10-17",
  "Statement": [
    {
      "Effect": "Allow",
      "Action": ["s3:GetBucketLocation", "s3:ListBucket", "s3:ListBucketMultipartUploads"],
      "Resource": ["arn:aws:s3:::$MINIO_BUCKET_NAME"]
    },
    {
      "Effect": "Allow",
      "Action": [
        "s3:GetObject",
        "s3:PutObject",
        "s3:DeleteObject",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts"
      ],
      "Resource": ["arn:aws:s3:::$MINIO_BUCKET_NAME/*"]
    }
  ]
}
POLICY
mc admin policy create store minitoolstream-brokers /tmp/policy.json

make_user() {
    mc admin user add store "$1" "$2"
    case "$(mc admin user info store "$1")" in
    *"PolicyName: minitoolstream-brokers"*) ;;
    *) mc admin policy attach store minitoolstream-brokers --user "$1" ;;
    esac
}
make_user "$INGRESS_ACCESS_KEY_ID" "$INGRESS_SECRET_ACCESS_KEY"
make_user "$EGRESS_ACCESS_KEY_ID" "$EGRESS_SECRET_ACCESS_KEY"
